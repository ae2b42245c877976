//! Printing for people and for programs.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Prints one JSON document.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")
}

/// Prints one JSON object on one line.
pub(crate) fn json_line(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")
}

/// Prints what is not for a terminal, as it is.
pub(crate) fn bytes(bytes: &[u8]) -> io::Result<()> {
    io::stdout().lock().write_all(bytes)
}

/// Prints a line; control characters that came from outside (subjects, server replies) are shown as blanks, so that a hostile
/// message cannot move the cursor of whoever reads this.
pub(crate) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(clean(text).as_bytes())?;
    out.write_all(b"\n")
}

/// Tells a person something that is not the result: on the standard error, which nobody pipes on.
pub(crate) fn note(text: &str) {
    // who cannot be told goes on without
    let _ = writeln!(io::stderr().lock(), "{}", clean(text));
}

/// The text without control characters, line breaks and tabs excepted.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c }).collect()
}

/// Prints a table: columns as wide as their longest cell, the last one as long as it likes.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let mut widths: Vec<usize> = head.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count()).min(60);
        }
    }
    let print = |cells: Vec<String>| {
        let mut text = String::new();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            let cell = clean(&cell.replace(['\n', '\t'], " "));
            text.push_str(&cell);
            if n + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
        }
        line(text.trim_end())
    };
    print(head.iter().map(|h| (*h).to_owned()).collect())?;
    for row in rows {
        print(row.clone())?;
    }
    Ok(())
}

/// A progress bar on the standard error, hidden when that is no terminal. `total` 0 shows a counter.
pub(crate) fn progress(total: u64, what: &'static str) -> indicatif::ProgressBar {
    if !io::stderr().is_terminal() {
        return indicatif::ProgressBar::hidden();
    }
    let bar =
        if total > 0 { indicatif::ProgressBar::new(total) } else { indicatif::ProgressBar::new_spinner() };
    bar.set_message(what);
    if let Ok(style) = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
        bar.set_style(style);
    }
    bar
}
