//! Tables for people, or JSON for programs.

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// Least width of a column, and the space after its longest entry, as runc has them.
const LEAST_WIDTH: usize = 12;
const GAP: usize = 3;

/// Prints rows under their headings, in columns.
pub(super) fn print(headings: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    let width = |column: usize| {
        let entries = rows.iter().filter_map(|row| row.get(column)).map(String::len);
        let longest = entries.chain([headings[column].len()]).max().unwrap_or(0);
        (longest + GAP).max(LEAST_WIDTH)
    };
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let text: String = cells.zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        super::report::print(text.trim_end())
    };
    line(&mut headings.iter().copied())?;
    rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
}
