//! Small durable files: written whole or not at all, and private where they must be.
//!
//! Every key, certificate, profile and last-good policy goes through here. Never leaves a half-written
//! file under the final name, and never lets a private file exist with wider permissions, not even briefly.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file that could not be read or written, and where.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The file is larger than anything that is meant to be there.
    #[error("{}: larger than the {limit} bytes that such a file may have", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The bound.
        limit: u64,
    },
    /// A private file can be read by others.
    #[error("{}: readable by others (mode {mode:04o}); it holds a secret: chmod 600 it, and replace the secret if somebody may have read it", path.display())]
    NotPrivate {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl FileError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file simply is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Writes a file that only its owner can read (0600), atomically and durably.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_atomically(path, content, 0o600)
}

/// Writes a file that everybody can read (0644), atomically and durably.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write_atomically(path, content, 0o644)
}

fn write_atomically(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.new", std::process::id()));
    let temporary = directory.join(name);

    let written = (|| {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::io("removing", &temporary, error));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)
            .map_err(|error| FileError::io("creating", &temporary, error))?;
        file.write_all(content)
            .map_err(|error| FileError::io("writing", &temporary, error))?;
        file.sync_all()
            .map_err(|error| FileError::io("syncing", &temporary, error))?;
        fs::rename(&temporary, path).map_err(|error| FileError::io("renaming to", path, error))
    })();
    if written.is_err() {
        // The failure itself is what the caller needs to hear; a left-over is removed at the next try.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| FileError::io("syncing", directory, error))
}

/// Reads a file of at most `limit` bytes.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|error| FileError::io("reading", path, error))?;
    read_open(file, path, limit)
}

/// Reads a file of at most `limit` bytes that holds a secret; refuses it if others can read it.
pub fn read_private(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let file = File::open(path).map_err(|error| FileError::io("reading", path, error))?;
    let mode = file
        .metadata()
        .map_err(|error| FileError::io("reading", path, error))?
        .permissions()
        .mode()
        & 0o7777;
    if mode & 0o077 != 0 {
        return Err(FileError::NotPrivate {
            path: path.to_owned(),
            mode,
        });
    }
    read_open(file, path, limit)
}

fn read_open(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut content = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|error| FileError::io("reading", path, error))?;
    if content.len() as u64 > limit {
        return Err(FileError::TooLarge {
            path: path.to_owned(),
            limit,
        });
    }
    Ok(content)
}

/// Makes a directory, and those above it, that only its owner can enter (0700). An existing one is kept.
pub fn create_private_directory(path: &Path) -> Result<(), FileError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| FileError::io("creating directory", path, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn private_file_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_private(&path, b"first").unwrap();
        write_private(&path, b"second").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_private(&path, 16).unwrap(), b"second");
        assert_eq!(
            fs::read_dir(directory.path()).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn secret_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write_public(&path, b"secret").unwrap();
        assert!(matches!(
            read_private(&path, 16),
            Err(FileError::NotPrivate { mode: 0o644, .. })
        ));
        assert_eq!(read(&path, 16).unwrap(), b"secret");
    }

    #[test]
    fn oversized_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        write_public(&path, &[0; 17]).unwrap();
        assert!(matches!(
            read(&path, 16),
            Err(FileError::TooLarge { limit: 16, .. })
        ));
        assert_eq!(read(&path, 17).unwrap().len(), 17);
    }

    #[test]
    fn write_into_missing_directory_fails_with_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let error = write_public(&directory.path().join("no/such/file"), b"").unwrap_err();
        assert!(error.to_string().contains("no/such"), "{error}");
    }
}
