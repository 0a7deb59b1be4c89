//! Test vectors of other projects. They are not ours and stay outside the repository: beside it, or
//! where an environment variable says.

use std::path::PathBuf;

/// Environment variable that names the folder.
pub const FOLDER: &str = "SLUICE_PEER_VECTORS";

/// Environment variable that makes a missing file a failure.
pub const REQUIRE: &str = "SLUICE_REQUIRE_PEER_VECTORS";

/// The text of a file in that folder; `None`, with a line on standard output, if it is not there.
///
/// # Panics
///
/// If it is not there and [`REQUIRE`] is set.
pub fn read(file: &str) -> Option<String> {
    std::fs::read_to_string(path(file)?).ok()
}

/// The path of a file, from that folder on; `None`, with a line on standard output, if it is not
/// there.
///
/// # Panics
///
/// If it is not there and [`REQUIRE`] is set.
pub fn path(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(FOLDER).map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/peer-vectors"),
        PathBuf::from,
    );
    let path = folder.join(file);
    if path.is_file() {
        return Some(path);
    }
    let required = std::env::var_os(REQUIRE).is_some();
    let path = path.display();
    assert!(!required, "{path} is missing, and {REQUIRE} is set");
    println!("{path} is missing: nothing was replayed; set {FOLDER}");
    None
}
