// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The label of a binary: the extended attribute `security.dsi`. Works on an open file, so that what was looked at
//! is what is changed.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use dsi_engine::{ScId, XattrError, xattr};
use rustix::{
    fs::{FileType, Mode, OFlags, XattrFlags, fgetxattr, fremovexattr, fsetxattr, fstat, open},
    io::Errno,
};

use crate::failure::Exit;

/// Why a label cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The file cannot be opened.
    #[error("{}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a symbolic link, which has no label of its own.
    #[error("{} is a symbolic link", path.display())]
    Link {
        /// The file.
        path: PathBuf,
    },
    /// It is neither a program nor any other plain file.
    #[error("{} is a {kind}; only plain files have labels", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Its label is no ScID.
    #[error("{}: its label is damaged: {fault}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: XattrError,
    },
    /// A ScID that no binary can bear.
    #[error("ScID {scid} is {what} and cannot be a binary's")]
    Reserved {
        /// The ScID.
        scid: u32,
        /// Whose it is.
        what: &'static str,
    },
    /// The caller may not change labels.
    #[error("{}: changing its label is not permitted ({source})", path.display())]
    NotPermitted {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file system keeps no such attributes.
    #[error("{}: its file system keeps no security.* attributes", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing the attribute failed.
    #[error("{}: {action} its label: {source}", path.display())]
    Attribute {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl LabelError {
    /// How a command ends that fails with it.
    pub fn exit(&self) -> Exit {
        match self {
            Self::NotPermitted { .. } => Exit::NotPermitted,
            Self::Open { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            Self::Reserved { .. } => Exit::Usage,
            _ => Exit::Failed,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        Some(match self {
            Self::Link { .. } => "name the file that it points at, or follow it with -L".to_owned(),
            Self::Kind { kind: "directory", .. } => "`dsictl label ls DIR` lists the labels in a directory".to_owned(),
            Self::Damaged { path, .. } => format!(
                "set it anew with `dsictl label set {} --scid N`, or take it off with `dsictl label rm`",
                path.display()
            ),
            Self::Reserved { scid: 0, .. } => "`dsictl label rm FILE` takes a label off".to_owned(),
            Self::Reserved { .. } => "choose one from 2 to 4294967294".to_owned(),
            Self::NotPermitted { .. } => {
                "it needs CAP_SYS_ADMIN, and CAP_MAC_ADMIN where dsm.ko is loaded, in the initial user namespace: run \
                 it as root, on a file system that is mounted writable"
                    .to_owned()
            }
            Self::Unsupported { .. } => {
                "put the program on a file system that does: ext4, xfs, btrfs or tmpfs, not NFS or FAT".to_owned()
            }
            _ => return None,
        })
    }
}

/// A plain file whose label can be read and changed.
pub struct Labelled {
    path: PathBuf,
    file: OwnedFd,
}

impl Labelled {
    /// Opens a plain file; a symbolic link only if links are to be followed.
    pub fn open(path: &Path, dereference: bool) -> Result<Self, LabelError> {
        let follow = if dereference {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        // Not blocking: the name may be that of a pipe with nobody at its other end.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | follow;
        let path = path.to_owned();
        let file = match open(&path, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::LOOP) if !dereference => return Err(LabelError::Link { path }),
            Err(errno) => {
                return Err(LabelError::Open {
                    path,
                    source: errno.into(),
                });
            }
        };
        let stat = match fstat(&file) {
            Ok(stat) => stat,
            Err(errno) => {
                return Err(LabelError::Open {
                    path,
                    source: errno.into(),
                });
            }
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(Self { path, file }),
            other => Err(LabelError::Kind {
                path,
                kind: kind_name(other),
            }),
        }
    }

    /// Its label; 0 if it has none.
    pub fn get(&self) -> Result<ScId, LabelError> {
        // One byte more than any valid value has: a longer one does not fit and is damaged.
        let mut value = [0u8; xattr::MAX_LEN + 1];
        let length = match fgetxattr(&self.file, xattr::NAME, value.as_mut_slice()) {
            Ok(length) => length,
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(ScId::KERNEL),
            Err(Errno::RANGE) => value.len(),
            Err(errno) => return Err(self.failed("reading", errno)),
        };
        xattr::parse(&value[..length]).map_err(|fault| LabelError::Damaged {
            path: self.path.clone(),
            fault,
        })
    }

    /// Labels it.
    pub fn set(&self, scid: ScId) -> Result<(), LabelError> {
        let reserved = |what| Err(LabelError::Reserved { scid: scid.0, what });
        match scid {
            ScId::KERNEL => return reserved("no label at all"),
            ScId::MANAGEMENT => {
                return reserved("management's, whose programs take it by themselves,");
            }
            ScId::OUTSIDE => return reserved("that of peers outside of the cluster"),
            _ => {}
        }
        fsetxattr(
            &self.file,
            xattr::NAME,
            scid.0.to_string().as_bytes(),
            XattrFlags::empty(),
        )
        .map_err(|errno| self.failed("setting", errno))
    }

    /// Takes the label off; nothing happens if there is none.
    pub fn remove(&self) -> Result<(), LabelError> {
        match fremovexattr(&self.file, xattr::NAME) {
            Ok(()) | Err(Errno::NODATA) => Ok(()),
            Err(errno) => Err(self.failed("removing", errno)),
        }
    }

    fn failed(&self, action: &'static str, errno: Errno) -> LabelError {
        let (path, source) = (self.path.clone(), io::Error::from(errno));
        match errno {
            Errno::PERM | Errno::ACCESS => LabelError::NotPermitted { path, source },
            Errno::OPNOTSUPP => LabelError::Unsupported { path },
            _ => LabelError::Attribute {
                path,
                action,
                source,
            },
        }
    }
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Directory => "directory",
        FileType::Fifo => "pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "special file",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that can bear labels, or `None` with the reason said: attributes of the kernel need root and a
    /// willing file system.
    fn labelled() -> Option<(tempfile::TempDir, PathBuf)> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, "#!/bin/true\n").unwrap();
        match Labelled::open(&path, false).unwrap().set(ScId(10)) {
            Ok(()) => Some((directory, path)),
            Err(error @ (LabelError::NotPermitted { .. } | LabelError::Unsupported { .. })) => {
                eprintln!("labels cannot be set here: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_label_is_set_changed_and_taken_off() {
        let Some((_directory, path)) = labelled() else {
            return;
        };
        let file = Labelled::open(&path, false).unwrap();
        assert_eq!(file.get().unwrap(), ScId(10));
        file.set(ScId(20)).unwrap();
        assert_eq!(file.get().unwrap(), ScId(20));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(file.get().unwrap(), ScId::KERNEL);
    }

    #[test]
    fn a_damaged_label_is_named_and_can_be_mended() {
        let Some((_directory, path)) = labelled() else {
            return;
        };
        for damage in ["10\n", "010", "", "99999999999999"] {
            let file = Labelled::open(&path, false).unwrap();
            fsetxattr(
                &file.file,
                xattr::NAME,
                damage.as_bytes(),
                XattrFlags::empty(),
            )
            .unwrap();
            assert!(
                matches!(file.get(), Err(LabelError::Damaged { .. })),
                "{damage:?}"
            );
        }
        let file = Labelled::open(&path, false).unwrap();
        file.set(ScId(10)).unwrap();
        assert_eq!(file.get().unwrap(), ScId(10));
    }

    #[test]
    fn reserved_numbers_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        std::fs::write(&path, "").unwrap();
        let file = Labelled::open(&path, false).unwrap();
        for scid in [0, 1, u32::MAX] {
            assert!(
                matches!(file.set(ScId(scid)), Err(LabelError::Reserved { .. })),
                "{scid}"
            );
        }
    }

    #[test]
    fn links_directories_and_pipes_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("program");
        let link = directory.path().join("link");
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(
            Labelled::open(&link, false),
            Err(LabelError::Link { .. })
        ));
        assert!(Labelled::open(&link, true).is_ok());
        let error = Labelled::open(directory.path(), false).err().unwrap();
        assert!(matches!(
            error,
            LabelError::Kind {
                kind: "directory",
                ..
            }
        ));
        assert!(matches!(
            Labelled::open(&directory.path().join("none"), false),
            Err(LabelError::Open { .. })
        ));
        assert!(matches!(
            Labelled::open(Path::new("/dev/null"), false),
            Err(LabelError::Kind { kind: "device", .. })
        ));
    }
}
