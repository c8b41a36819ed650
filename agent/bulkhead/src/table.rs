//! Tables for people: columns as wide as what is in them.

use anstyle::Style;

/// Rows under a head.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
struct Column {
    head: &'static str,
    is_number: bool,
}

/// One field of a row.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::new() }
    }
}

impl Cell {
    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl Table {
    /// Numbers stand at the right of their columns, and are those whose heads begin with `>`.
    pub(crate) fn new(heads: &[&'static str]) -> Self {
        let column = |head: &&'static str| Column {
            head: head.trim_start_matches('>'),
            is_number: head.starts_with('>'),
        };
        Self { columns: heads.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row: a field for each column. What is in it must be fit for a terminal.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        self.rows.push(row);
    }

    /// Its lines, with or without colours.
    pub(crate) fn render(&self, color: bool) -> String {
        let widest = |(n, column): (usize, &Column)| {
            let fields = self.rows.iter().filter_map(|row| row.get(n)).map(|cell| width(&cell.text));
            fields.chain([width(column.head)]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(widest).collect();
        let head: Vec<Cell> = self.columns.iter().map(|column| column.head.into()).collect();
        let mut out = String::new();
        for row in [&head].into_iter().chain(&self.rows) {
            let mut line = String::new();
            for (n, (cell, column)) in row.iter().zip(&self.columns).enumerate() {
                if n > 0 {
                    line += "  ";
                }
                let blank = " ".repeat(widths[n] - width(&cell.text));
                let Cell { text, style } = cell;
                let text = if color { format!("{style}{text}{style:#}") } else { text.clone() };
                match (column.is_number, n + 1 == self.columns.len()) {
                    (true, _) => line += &(blank + &text),
                    (false, true) => line += &text,
                    (false, false) => line += &(text + &blank),
                }
            }
            out += line.trim_end();
            out.push('\n');
        }
        out
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use anstyle::AnsiColor;

    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(&["name", ">packets", "where"]);
        table.push(vec!["a".into(), "120".into(), "here".into()]);
        let red = AnsiColor::Red.on_default();
        table.push(vec![Cell::styled("longer", red), "12345678".into(), "".into()]);
        insta::assert_snapshot!(table.render(false), @r"
        name     packets  where
        a            120  here
        longer  12345678
        ");
        let painted = table.render(true);
        assert!(painted.contains("\u{1b}[31mlonger\u{1b}[0m  12345678"), "{painted:?}");
    }
}
