// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! `dsictl label`: SetSID and ls_dsi of old.

use std::{
    fs,
    io::{self, Write},
    path::Path,
};

use dsi_engine::ScId;
use dsp_schema::Names;
use rustix::fs::FileType;
use serde::Serialize;
use uzers::{get_group_by_gid, get_user_by_uid};

use crate::{
    cli::{LabelFiles, LabelLs, LabelSet},
    commands::policy,
    failure::{Exit, Failure},
    label::{LabelError, Labelled},
    output::{Output, Report},
};

#[derive(Serialize)]
struct Change {
    file: String,
    from: Option<u32>,
    to: u32,
}

impl Report for Change {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let from = self
            .from
            .map_or_else(|| "damaged label".to_owned(), |scid| format!("ScID {scid}"));
        writeln!(
            out,
            "{}: Changing from {from} to ScID {}",
            self.file, self.to
        )
    }
}

/// `dsictl label set`
pub fn set(arguments: &LabelSet, output: &Output) -> Result<(), Failure> {
    let scid = arguments.scid.resolve(arguments.policy.as_deref())?;
    each(&arguments.files, output, |file| {
        let from = mendable(file.get())?;
        file.set(scid)?;
        Ok((from, scid))
    })
}

/// `dsictl label rm`
pub fn rm(arguments: &LabelFiles, output: &Output) -> Result<(), Failure> {
    each(arguments, output, |file| {
        let from = mendable(file.get())?;
        file.remove()?;
        Ok((from, ScId::KERNEL))
    })
}

/// A damaged label is no obstacle to a new one.
fn mendable(label: Result<ScId, LabelError>) -> Result<Option<ScId>, LabelError> {
    match label {
        Ok(scid) => Ok(Some(scid)),
        Err(LabelError::Damaged { .. }) => Ok(None),
        Err(other) => Err(other),
    }
}

/// Changes each file, and goes on after a failure.
fn each(
    arguments: &LabelFiles,
    output: &Output,
    change: impl Fn(&Labelled) -> Result<(Option<ScId>, ScId), LabelError>,
) -> Result<(), Failure> {
    over(arguments, output, |path| {
        let (from, to) = change(&Labelled::open(path, arguments.dereference)?)?;
        Ok(Change {
            file: path.display().to_string(),
            from: from.map(|scid| scid.0),
            to: to.0,
        })
    })
}

#[derive(Serialize)]
struct Label {
    file: String,
    scid: u32,
}

impl Report for Label {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.file, self.scid)
    }
}

/// `dsictl label get`
pub fn get(arguments: &LabelFiles, output: &Output) -> Result<(), Failure> {
    over(arguments, output, |path| {
        let scid = Labelled::open(path, arguments.dereference)?.get()?;
        Ok(Label {
            file: path.display().to_string(),
            scid: scid.0,
        })
    })
}

/// One line for each file; the failure of one does not stop the others.
fn over<R: Report>(
    arguments: &LabelFiles,
    output: &Output,
    act: impl Fn(&Path) -> Result<R, LabelError>,
) -> Result<(), Failure> {
    let mut failures = Vec::new();
    for path in &arguments.files {
        match act(path) {
            Ok(report) => output.line(&report)?,
            Err(error) => failures.push(Failure::Label(error)),
        }
    }
    let total = arguments.files.len();
    match (failures.len(), total) {
        (0, _) => Ok(()),
        (1, 1) => Err(failures.remove(0)),
        (failed, _) => {
            failures.iter().for_each(|failure| output.failure(failure));
            let exit = failures
                .iter()
                .map(Failure::exit)
                .max_by_key(|exit| *exit as u8)
                .unwrap_or(Exit::Failed);
            Err(Failure::SomeFiles {
                failed,
                total,
                exit,
            })
        }
    }
}

#[derive(Serialize)]
struct Entry {
    mode: String,
    owner: String,
    group: String,
    /// Absent where a file can have none, or it is damaged.
    scid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    name: String,
}

#[derive(Serialize)]
struct Listing {
    directory: String,
    files: Vec<Entry>,
    #[serde(skip)]
    named: bool,
}

impl Report for Listing {
    fn text(&self, out: &mut dyn Write) -> io::Result<()> {
        let wide = |cell: fn(&Entry) -> &str, least: usize| {
            self.files
                .iter()
                .map(|entry| cell(entry).chars().count())
                .chain([least])
                .max()
                .unwrap_or(least)
        };
        let owner = wide(|entry| &entry.owner, 12);
        let group = wide(|entry| &entry.group, 7);
        let label = |entry: &Entry| match (entry.scid, &entry.context, &entry.error) {
            (Some(scid), Some(context), _) if self.named && scid != 0 => {
                format!("{scid} ({context})")
            }
            (Some(scid), ..) => scid.to_string(),
            (None, _, Some(_)) => "damaged".to_owned(),
            (None, ..) => "-".to_owned(),
        };
        let labels: Vec<_> = self.files.iter().map(label).collect();
        let width = labels
            .iter()
            .map(|text| text.chars().count())
            .chain([5])
            .max()
            .unwrap_or(5);
        for (entry, label) in self.files.iter().zip(labels) {
            let Entry {
                mode,
                owner: user,
                group: team,
                name,
                ..
            } = entry;
            writeln!(
                out,
                "{mode} {user:>owner$} {team:<group$} {label:<width$} {name}"
            )?;
        }
        Ok(())
    }
}

/// `dsictl label ls`
pub fn ls(arguments: &LabelLs, output: &Output) -> Result<(), Failure> {
    let names = arguments
        .policy
        .as_deref()
        .map(|file| policy::parse_file(file).map(|dsp| Names::of(&dsp)))
        .transpose()?;
    let directory = &arguments.directory;
    let fail = |source| {
        Failure::Label(LabelError::Open {
            path: directory.clone(),
            source,
        })
    };
    let mut found = fs::read_dir(directory)
        .map_err(fail)?
        .collect::<io::Result<Vec<_>>>()
        .map_err(fail)?;
    found.sort_by_key(fs::DirEntry::file_name);
    // What vanishes while it is listed is not listed.
    let files = found
        .iter()
        .filter_map(|item| entry(item, names.as_ref()))
        .collect();
    output.report(&Listing {
        directory: directory.display().to_string(),
        files,
        named: names.is_some(),
    })
}

fn entry(item: &fs::DirEntry, names: Option<&Names>) -> Option<Entry> {
    use std::os::unix::fs::MetadataExt;
    let metadata = item.metadata().ok()?;
    let name = item.file_name().to_string_lossy().into_owned();
    let (scid, error) = if metadata.is_file() {
        match Labelled::open(&item.path(), false).and_then(|file| file.get()) {
            Ok(scid) => (Some(scid.0), None),
            Err(error) => (None, Some(error.to_string())),
        }
    } else {
        (None, None)
    };
    let owner = get_user_by_uid(metadata.uid()).map_or_else(
        || metadata.uid().to_string(),
        |user| user.name().to_string_lossy().into_owned(),
    );
    let group = get_group_by_gid(metadata.gid()).map_or_else(
        || metadata.gid().to_string(),
        |group| group.name().to_string_lossy().into_owned(),
    );
    let context = scid
        .and_then(|scid| names?.context(scid))
        .map(str::to_owned);
    Some(Entry {
        mode: mode_text(metadata.mode()),
        owner,
        group,
        scid,
        context,
        error,
        name,
    })
}

/// The mode as `ls -l` writes it.
fn mode_text(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        _ => '-',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_written_as_ls_writes_them() {
        for (mode, text) in [
            (0o100_755, "-rwxr-xr-x"),
            (0o104_755, "-rwsr-xr-x"),
            (0o102_644, "-rw-r-Sr--"),
            (0o041_777, "drwxrwxrwt"),
            (0o120_777, "lrwxrwxrwx"),
            (0o020_600, "crw-------"),
        ] {
            assert_eq!(mode_text(mode), text);
        }
    }

    #[test]
    fn the_listing_has_the_form_of_old() {
        let file = |name: &str, scid| Entry {
            mode: "-rwxr-xr-x".to_owned(),
            owner: "lmcaxpr".to_owned(),
            group: "install".to_owned(),
            scid,
            context: None,
            error: None,
            name: name.to_owned(),
        };
        let files = vec![file("PhoneManiaBE", Some(10)), file("bin", None)];
        let mut out = Vec::new();
        Listing {
            directory: ".".to_owned(),
            files,
            named: false,
        }
        .text(&mut out)
        .unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "-rwxr-xr-x      lmcaxpr install 10    PhoneManiaBE\n-rwxr-xr-x      lmcaxpr install -     bin\n"
        );
    }
}
