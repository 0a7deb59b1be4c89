//! The page that lists a folder. Pure.

use super::open::Entry;
use super::path::percent_encode;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// The page. Links are relative, so that it does not matter where the folder is served.
pub(super) fn page(title: &[u8], is_root: bool, entries: &[Entry]) -> String {
    let title = String::from_utf8_lossy(title);
    let mut page = String::from(
        "<!doctype html>\n<html><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>",
    );
    escape(&title, &mut page);
    page.push_str("</title></head>\n<body><h1>");
    escape(&title, &mut page);
    page.push_str("</h1>\n<table>\n");
    if !is_root {
        page.push_str("<tr><td><a href=\"../\">../</a></td><td></td></tr>\n");
    }
    for entry in entries {
        let slash = if entry.folder { "/" } else { "" };
        page.push_str("<tr><td><a href=\"./");
        percent_encode(entry.name.as_bytes(), &mut page);
        page.push_str(slash);
        page.push_str("\">");
        escape(&entry.name.to_string_lossy(), &mut page);
        page.push_str(slash);
        page.push_str("</a></td><td>");
        if let Some(size) = entry.size {
            // Writing to a string does not fail.
            let _ = write!(page, "{size}");
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table></body></html>\n");
    page
}

fn escape(text: &str, page: &mut String) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_harmless() {
        let entry = |name: &str, folder| Entry {
            name: name.into(),
            folder,
            size: (!folder).then_some(3),
        };
        let entries = [
            entry("javascript:alert(1)", true),
            entry("<img src=x onerror=\"a\">&'", false),
        ];
        let page = page(b"/a<b>/", false, &entries);
        assert!(page.contains("<title>/a&lt;b&gt;/</title>"));
        assert!(page.contains("<a href=\"./javascript%3Aalert%281%29/\">"));
        assert!(page.contains("&lt;img src=x onerror=&quot;a&quot;&gt;&amp;&#39;</a></td><td>3<"));
        assert!(page.contains("href=\"../\""));
        assert!(!page.contains("<img"));
    }
}
