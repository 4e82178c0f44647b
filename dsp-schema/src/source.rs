// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! The text of a document and the places in it. Faults keep byte ranges; lines and columns are made here, at the end.

use std::ops::Range;

/// A place as people count: both from 1, the column in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A document's name and text.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
    /// Offset of each line's first byte.
    lines: Vec<usize>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let lines = std::iter::once(0)
            .chain(
                text.bytes()
                    .enumerate()
                    .filter(|(_, b)| *b == b'\n')
                    .map(|(at, _)| at + 1),
            )
            .collect();
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            lines,
        }
    }

    /// The name that errors show: usually the file's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text; empty if the document was not text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset.
    pub fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let line = self.line_index(offset);
        let before = self.text.get(self.lines[line]..offset).unwrap_or("");
        Position {
            line: line + 1,
            column: before.chars().count() + 1,
        }
    }

    /// The byte offset of a line and column; the end of the text if there is no such place.
    pub(crate) fn offset(&self, position: Position) -> usize {
        let start = position
            .line
            .checked_sub(1)
            .and_then(|line| self.lines.get(line));
        let Some(&start) = start else {
            return self.text.len();
        };
        let rest = &self.text[start..];
        let column = position.column.saturating_sub(1);
        start
            + rest
                .char_indices()
                .nth(column)
                .map_or(rest.len(), |(at, _)| at)
    }

    /// The whole lines that a range touches: number of the first line, its offset, and their text.
    pub(crate) fn lines_of(&self, range: &Range<usize>) -> (usize, usize, &str) {
        let first = self.line_index(range.start.min(self.text.len()));
        let last = self.line_index(range.end.min(self.text.len()));
        let end = self
            .lines
            .get(last + 1)
            .map_or(self.text.len(), |next| next - 1);
        (
            first + 1,
            self.lines[first],
            &self.text[self.lines[first]..end],
        )
    }

    fn line_index(&self, offset: usize) -> usize {
        self.lines
            .partition_point(|start| *start <= offset)
            .saturating_sub(1)
    }
}
