// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//! Faults as people read them on a terminal: each with its file, line and column, the faulty text underlined, the
//! other place that it is about, and the cure.

use crate::fault::{Fault, Faults};
use crate::source::Source;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use std::ops::Range;

/// All faults, with colours if `color`.
pub fn render(faults: &Faults, color: bool) -> String {
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut out = String::new();
    for fault in faults.iter() {
        out.push_str(&one(&renderer, faults.source(), fault));
        out.push_str("\n\n");
    }
    let count = faults.iter().count() + faults.omitted();
    let noun = if count == 1 { "error" } else { "errors" };
    out.push_str(&format!("{}: {count} {noun}", faults.source().name()));
    if faults.omitted() > 0 {
        out.push_str(&format!(", the first {} shown", faults.iter().count()));
    }
    out.push('\n');
    out
}

fn one(renderer: &Renderer, source: &Source, fault: &Fault) -> String {
    let (message, help) = (fault.kind.message(), fault.kind.help());
    let mut error = Group::with_title(Level::ERROR.primary_title(&message).id(fault.kind.code()))
        .element(place(source, &fault.span, AnnotationKind::Primary, None));
    for related in &fault.related {
        error = error.element(place(
            source,
            &related.span,
            AnnotationKind::Context,
            Some(related.note),
        ));
    }
    let help = Group::with_title(Level::HELP.secondary_title(&help));
    renderer.render(&[error, help])
}

/// The lines of a place, cut out of the document so that a fault at the end of a large one costs no more.
fn place<'a>(
    source: &'a Source,
    span: &Range<usize>,
    kind: AnnotationKind,
    note: Option<&'a str>,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let (line, offset, text) = source.lines_of(span);
    let end = span.end.min(offset + text.len()).max(span.start) - offset;
    Snippet::source(text)
        .line_start(line)
        .path(source.name())
        .annotation(kind.span(span.start - offset..end).label(note))
}
