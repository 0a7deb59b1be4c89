//! The unix socket: one owner at a time, and no stale file in the way.
//!
//! A lock file beside the socket decides who owns it. The kernel releases the lock when its holder
//! dies, however it dies, so a socket file without a lock holder is stale and may be removed
//! without asking anybody; two daemons that start at once cannot both win.

use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use tokio::net::UnixListener;

/// Owner and group may talk to the daemon, nobody else.
pub const MODE: u32 = 0o660;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// A bound socket. Dropping it removes the file, if it is its own, and releases the lock.
///
/// The lock belongs to the open file: a successor that is given the descriptor shares it.
#[derive(Debug)]
pub struct AdminSocket {
    path: PathBuf,
    lock: File,
    /// The file is to be removed at the end.
    is_own: bool,
}

/// What a predecessor, or the service manager, has given.
#[derive(Debug)]
pub struct Given {
    /// The listening socket.
    pub listener: OwnedFd,
    /// The lock of its path, which a predecessor holds.
    pub lock: Option<OwnedFd>,
}

/// The socket could not be had.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon has it.
    #[error("another sluice (process {pid}) already serves {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// Process id of the other daemon, as it noted it.
        pid: String,
    },
    /// The system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl AdminSocket {
    /// Takes the lock and binds the socket; must run inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// [`SocketError::InUse`] if another daemon runs, else [`SocketError::Io`].
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), SocketError> {
        if let Some(directory) = path.parent() {
            at("create directory", directory, fs::create_dir_all(directory))?;
        }
        let lock = take_lock(path)?;
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return at("remove stale socket", path, Err(error));
            }
            _ => {}
        }
        let listener = at("listen on", path, listen(path))?;
        let socket = Self {
            path: path.to_owned(),
            lock,
            is_own: true,
        };
        Ok((socket, listener))
    }

    /// Takes over a socket that listens already; must run inside a tokio runtime. Its file stays
    /// at the end, until [`Self::own`].
    ///
    /// # Errors
    ///
    /// As [`Self::bind`].
    pub fn adopt(path: &Path, given: Given) -> Result<(Self, UnixListener), SocketError> {
        let lock = match given.lock {
            Some(lock) => File::from(lock),
            None => take_lock(path)?,
        };
        let listener = StdUnixListener::from(given.listener);
        at("use", path, listener.set_nonblocking(true))?;
        let listener = at("use", path, UnixListener::from_std(listener))?;
        let socket = Self {
            path: path.to_owned(),
            lock,
            is_own: false,
        };
        Ok((socket, listener))
    }

    /// From now on this process is the one that serves the socket, and that removes it at the end.
    ///
    /// # Errors
    ///
    /// Its process id cannot be noted.
    pub fn own(&mut self) -> Result<(), SocketError> {
        self.is_own = true;
        at(
            "write lock",
            &lock_path(&self.path),
            note_owner(&mut self.lock),
        )
    }

    /// As [`Self::own`], but a socket that the service manager has made stays: it is its own.
    ///
    /// # Errors
    ///
    /// As [`Self::own`].
    pub fn own_unless_given(&mut self) -> Result<(), SocketError> {
        let is_own = self.is_own;
        self.own()?;
        self.is_own = is_own;
        Ok(())
    }

    /// From now on it is somebody else's.
    pub fn disown(&mut self) {
        self.is_own = false;
    }

    /// The process that serves the socket, as it has noted.
    pub fn owner(&self) -> Option<u32> {
        let noted = fs::read_to_string(lock_path(&self.path)).ok()?;
        noted.trim().parse().ok()
    }

    /// The lock, for a successor.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        if self.is_own {
            // Best effort: the next start removes what is left.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Where the lock of a socket lives. It is left behind: removing it would let two daemons hold
/// locks on two files of the same name.
fn lock_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn take_lock(path: &Path) -> Result<File, SocketError> {
    let lock_path = lock_path(path);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let mut file = at("open lock", &lock_path, options.open(&lock_path))?;
    match file.try_lock() {
        Ok(()) => {
            at("write lock", &lock_path, note_owner(&mut file))?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            Err(SocketError::InUse {
                path: path.to_owned(),
                pid: pid.trim().to_owned(),
            })
        }
        Err(TryLockError::Error(source)) => at("lock", &lock_path, Err(source)),
    }
}

/// Writes into a lock that this process has what it guards.
pub(crate) fn note_owner(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// Permissions are set between `bind` and `listen`, so nobody can connect before they hold.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(StdUnixListener::from(std::os::fd::OwnedFd::from(socket)))
}

fn at<T>(what: &'static str, path: &Path, result: io::Result<T>) -> Result<T, SocketError> {
    result.map_err(|source| SocketError::Io {
        what,
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_daemon_is_refused_and_told_who_is_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("run/admin.sock");
        let first = AdminSocket::bind(&path).expect("binds");
        let error = AdminSocket::bind(&path).expect_err("in use");
        assert!(
            error.to_string().contains(&std::process::id().to_string()),
            "{error}"
        );
        drop(first);
        assert!(!path.exists());
        AdminSocket::bind(&path).expect("free again");
    }

    #[tokio::test]
    async fn a_socket_that_is_handed_over_stays_and_is_locked() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        let (mut old, listener) = AdminSocket::bind(&path).expect("binds");
        let given = Given {
            listener: listener.as_fd().try_clone_to_owned().expect("copied"),
            lock: Some(old.lock().try_clone_to_owned().expect("copied")),
        };
        let (mut new, _listener) = AdminSocket::adopt(&path, given).expect("adopted");
        new.own().expect("noted");
        old.disown();
        drop((old, listener));
        tokio::net::UnixStream::connect(&path)
            .await
            .expect("served");
        AdminSocket::bind(&path).expect_err("still locked");
        drop(new);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_a_killed_daemon_left_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.sock");
        drop(StdUnixListener::bind(&path).expect("binds"));
        assert!(path.exists());
        let (_socket, _listener) = AdminSocket::bind(&path).expect("replaces it");
        let mode = fs::metadata(&path).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
    }
}
