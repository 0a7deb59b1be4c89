//! Figures in documents: a page holds marked blocks, and the benchmark that made the figures
//! writes them there itself, so that no figure is copied by hand.
//!
//! ```text
//! <!-- bench l4-packets -->
//! …replaced…
//! <!-- /bench -->
//! ```

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// End of every block.
const END: &str = "<!-- /bench -->";

/// A file of the workspace, by its path from the root.
pub fn in_workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Replaces the block `name` of a page.
///
/// # Errors
///
/// The page cannot be read or written, or has no such block.
pub fn write(page: &Path, name: &str, block: &str) -> Result<()> {
    let text =
        std::fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
    let text = replaced(&text, name, block)
        .with_context(|| format!("{} has no block `{name}`", page.display()))?;
    std::fs::write(page, text).with_context(|| format!("writing {}", page.display()))
}

fn replaced(text: &str, name: &str, block: &str) -> Option<String> {
    let mark = format!("<!-- bench {name} -->\n");
    let start = text.find(&mark)? + mark.len();
    let end = start + text[start..].find(END)?;
    let block = block.trim_end();
    Some(format!("{}\n{block}\n\n{}", &text[..start], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_replaced_and_its_surroundings_stay() {
        let page = "a\n<!-- bench x -->\nold\n<!-- /bench -->\nb\n\
                    <!-- bench y -->\n<!-- /bench -->\n";
        let once = replaced(page, "x", "| new |\n").unwrap();
        assert_eq!(
            once,
            "a\n<!-- bench x -->\n\n| new |\n\n<!-- /bench -->\nb\n\
             <!-- bench y -->\n<!-- /bench -->\n"
        );
        assert_eq!(replaced(&once, "x", "| new |").unwrap(), once);
        assert_eq!(replaced(page, "z", ""), None);
    }
}
