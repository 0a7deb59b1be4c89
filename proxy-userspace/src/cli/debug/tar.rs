//! Files put together as one, as POSIX.1-1988 has it (ustar): what every `tar` reads.

/// Octets of a block: a header is one, and content is filled up to whole ones.
const BLOCK: usize = 512;

/// Octets of a name at most.
const NAME: usize = 100;

/// An archive as it grows.
#[derive(Debug)]
pub(super) struct Archive {
    octets: Vec<u8>,
    /// When its files were changed, seconds since the epoch.
    time: u64,
}

impl Archive {
    /// An archive without files.
    pub(super) const fn new(time: u64) -> Self {
        Self {
            octets: Vec::new(),
            time,
        }
    }

    /// Adds a file that only its owner may read.
    ///
    /// # Panics
    ///
    /// If the name does not fit into a header.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) {
        assert!(name.len() <= NAME, "names are ours, and short: {name}");
        let mut header = [0; BLOCK];
        let size = format!("{:011o}\0", content.len());
        let time = format!("{:011o}\0", self.time);
        let fields: [(usize, &[u8]); 8] = [
            (0, name.as_bytes()),
            (100, b"0000600\0"),
            (108, b"0000000\0"),
            (116, b"0000000\0"),
            (124, size.as_bytes()),
            (136, time.as_bytes()),
            // The sum is of a header with spaces in its place.
            (148, b"        0"),
            (257, b"ustar\x0000root"),
        ];
        for (at, octets) in fields {
            header[at..at + octets.len()].copy_from_slice(octets);
        }
        header[297..301].copy_from_slice(b"root");
        let sum: u32 = header.iter().map(|octet| u32::from(*octet)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.octets.extend_from_slice(&header);
        self.octets.extend_from_slice(content);
        self.octets
            .resize(self.octets.len().next_multiple_of(BLOCK), 0);
    }

    /// The whole, with the two empty blocks that end it.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.octets.resize(self.octets.len() + 2 * BLOCK, 0);
        self.octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// GNU's or another tar is the judge.
    #[test]
    fn tar_unpacks_it() {
        let mut archive = Archive::new(1_700_000_000);
        let whole = vec![b'x'; BLOCK];
        archive.add("a/one.txt", b"first\n");
        archive.add("a/none", b"");
        archive.add("a/whole", &whole);
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("a.tar");
        std::fs::write(&file, archive.finish()).expect("written");
        let status = Command::new("tar")
            .arg("-xf")
            .arg(&file)
            .current_dir(folder.path())
            .status();
        assert!(status.expect("tar is there").success());
        let read = |name: &str| std::fs::read(folder.path().join(name)).expect(name);
        assert_eq!(read("a/one.txt"), b"first\n");
        assert_eq!(read("a/none"), b"");
        assert_eq!(read("a/whole"), whole);
        let unpacked = std::fs::metadata(folder.path().join("a/one.txt")).expect("there");
        let time = unpacked.modified().expect("a time");
        let time = time.duration_since(std::time::UNIX_EPOCH).expect("after");
        assert_eq!(time.as_secs(), 1_700_000_000);
    }
}
