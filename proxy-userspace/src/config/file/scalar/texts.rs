//! Names, paths and other texts.

use crate::config::model::http as model;
use std::path::PathBuf;

/// Letters that names may begin with and consist of.
fn is_name(text: &str, more: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
    text.len() <= 63
        && text.chars().all(inner)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || more.contains(c))
}

scalar!(
    /// Name of a listener or service.
    Name(String),
    TEXT,
    "a name of at most 63 letters, digits, `.`, `_` and `-` that begins with a letter or digit",
    |text| is_name(text, "").then(|| text.to_owned()),
    {
        "title": "name",
        "type": "string",
        "description": "A name: letters, digits, `.`, `_` and `-`, beginning with a letter or digit, at most 63.",
        "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
    }
);

scalar!(
    /// Name of a backend: by default its address and port, hence colons and brackets.
    BackendName(String),
    TEXT,
    "a name of at most 63 letters, digits, `.`, `_`, `-`, `:`, `[` and `]`",
    |text| is_name(text, ":[]").then(|| text.to_owned()),
    {
        "title": "backend name",
        "type": "string",
        "description": "A name: letters, digits, `.`, `_`, `-`, `:`, `[` and `]`, at most 63.",
        "pattern": "^[A-Za-z0-9:\\[\\]][A-Za-z0-9._:\\[\\]-]{0,62}$"
    }
);

scalar!(
    /// Name of an interface; `IFNAMSIZ` leaves 15 octets.
    InterfaceName(String),
    TEXT,
    "the name of an interface as `ip link` shows it: at most 15 characters, no spaces, `/` or `:`",
    |text| {
        let good = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "/:".contains(c));
        good.then(|| text.to_owned())
    },
    {
        "title": "interface",
        "type": "string",
        "description": "Name of an interface, as `ip link` shows it: at most 15 characters.",
        "pattern": "^[^/:\\s]{1,15}$"
    }
);

scalar!(
    /// An absolute path.
    Path(PathBuf),
    TEXT,
    "an absolute path, beginning with `/`",
    |text| (text.starts_with('/') && !text.contains('\0')).then(|| PathBuf::from(text)),
    {
        "title": "path",
        "type": "string",
        "description": "An absolute path.",
        "pattern": "^/"
    }
);

scalar!(
    /// The path of a cgroup below the root of cgroups, without a slash at its end.
    CgroupPath(String),
    TEXT,
    "the path of a cgroup below the root of cgroups, such as `/system.slice/shop.service`",
    |text| {
        let (path, all) = (text.strip_prefix('/')?, ["", ".", ".."]);
        let is_root = path.is_empty();
        let is_plain = path.split('/').all(|part| !all.contains(&part) && !part.contains('\0'));
        (text.len() < 4096 && (is_root || is_plain)).then(|| text.to_owned())
    },
    {
        "title": "path of a cgroup",
        "type": "string",
        "description": "Path of a cgroup (version 2) below their root, such as `/system.slice/shop.service`; `/` for all.",
        "pattern": "^/([^/]+(/[^/]+)*)?$"
    }
);

scalar!(
    /// Text that may look like a number.
    Text(String),
    RAW,
    "text",
    |text| Some(text.to_owned()),
    {
        "title": "text or number",
        "description": "Text; numbers and truth values count as the text that they are written in.",
        "type": ["string", "number", "boolean"]
    }
);

scalar!(
    /// A path of a URI.
    UrlPath(String),
    TEXT,
    "a path that begins with `/`, without blanks, `?` and `#`",
    |text| {
        let good = text.starts_with('/')
            && text.bytes().all(|octet| octet.is_ascii_graphic() && octet != b'?' && octet != b'#');
        good.then(|| text.to_owned())
    },
    {
        "title": "URL path",
        "type": "string",
        "description": "The path of a URL: begins with `/`, without blanks, `?` and `#`; what is not ASCII is percent-encoded.",
        "pattern": "^/[!-\"$->@-~]*$"
    }
);

scalar!(
    /// A scheme.
    Scheme(&'static str),
    RAW,
    "`http` or `https`",
    |text| ["http", "https"].into_iter().find(|scheme| *scheme == text),
    {
        "title": "scheme",
        "type": "string",
        "description": "`http` or `https`.",
        "pattern": "^https?$"
    }
);

scalar!(
    /// Where a log goes.
    LogTarget(model::LogTarget),
    TEXT,
    "`stdout`, or an absolute path",
    |text| match text {
        "stdout" => Some(model::LogTarget::Stdout),
        _ if text.starts_with('/') && !text.contains('\0') => {
            Some(model::LogTarget::File(text.into()))
        }
        _ => None,
    },
    {
        "title": "log target",
        "type": "string",
        "description": "`stdout`, or the absolute path of a file.",
        "pattern": "^(stdout$|/)"
    }
);

scalar!(
    /// The path of a file.
    FilePath(PathBuf),
    TEXT,
    "an absolute path",
    |text| (text.starts_with('/') && !text.contains('\0')).then(|| text.into()),
    {
        "title": "path",
        "type": "string",
        "description": "The absolute path of a file.",
        "pattern": "^/"
    }
);
