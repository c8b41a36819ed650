//! Figures beside their goals.

use std::fmt;

/// What was measured, a row each.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Row>);

#[derive(Debug)]
struct Row {
    what: String,
    goal: String,
    figure: String,
    verdict: &'static str,
}

/// A unit, and how many decimals of it mean something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit<'a>(pub(super) &'a str, pub(super) usize);

impl Table {
    /// A figure that should be at most `goal`.
    pub(super) fn at_most(&mut self, what: &str, goal: f64, figure: f64, unit: Unit<'_>) {
        self.row(what, format!("≤ {}", shown(goal, unit)), figure, unit, figure <= goal);
    }

    /// A figure that should be at least `goal`.
    pub(super) fn at_least(&mut self, what: &str, goal: f64, figure: f64, unit: Unit<'_>) {
        self.row(what, format!("≥ {}", shown(goal, unit)), figure, unit, figure >= goal);
    }

    /// A figure that nothing was promised for.
    pub(super) fn figure(&mut self, what: &str, figure: f64, unit: Unit<'_>) {
        self.0.push(Row {
            what: what.to_owned(),
            goal: String::new(),
            figure: shown(figure, unit),
            verdict: "",
        });
    }

    fn row(&mut self, what: &str, goal: String, figure: f64, unit: Unit<'_>, passed: bool) {
        let verdict = if passed { "PASS" } else { "FAIL" };
        self.0.push(Row { what: what.to_owned(), goal, figure: shown(figure, unit), verdict });
    }
}

fn shown(figure: f64, Unit(unit, decimals): Unit<'_>) -> String {
    format!("{figure:.decimals$} {unit}")
}

/// A table as Markdown and a terminal show it.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = Row { what: "what".into(), goal: "goal".into(), figure: "median".into(), verdict: "" };
        let rows: Vec<[&str; 4]> = std::iter::once(&head)
            .chain(&self.0)
            .map(|row| [&*row.what, &*row.goal, &*row.figure, row.verdict])
            .collect();
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default().max(4)
        };
        let widths = [0, 1, 2, 3].map(width);
        for (n, row) in rows.iter().enumerate() {
            let [what, goal, figure, verdict] = row;
            let end = if n + 1 == rows.len() { "" } else { "\n" };
            write!(
                f,
                "| {what:<0$} | {goal:>1$} | {figure:>2$} | {verdict:<3$} |{end}",
                widths[0], widths[1], widths[2], widths[3]
            )?;
            if n == 0 {
                let dashes = widths.map(|width| "-".repeat(width));
                writeln!(
                    f,
                    "| {} | {}: | {}: | {} |",
                    dashes[0],
                    &dashes[1][1..],
                    &dashes[2][1..],
                    dashes[3]
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_or_missed_and_columns_align() {
        let mut table = Table::default();
        table.at_most("compile", 1.0, 0.25, Unit("s", 2));
        table.at_least("flows", 2.0, 1.94, Unit("million a second", 1));
        table.figure("read", 7.0, Unit("MB", 0));
        let expected = "\
| what    |                 goal |               median |      |
| ------- | -------------------: | -------------------: | ---- |
| compile |             ≤ 1.00 s |               0.25 s | PASS |
| flows   | ≥ 2.0 million a second | 1.9 million a second | FAIL |
| read    |                      |                 7 MB |      |";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ").replace('-', "");
        assert_eq!(squeeze(&table.to_string()), squeeze(expected));
        let widths: Vec<_> = table.to_string().lines().map(|line| line.chars().count()).collect();
        assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{table}");
    }
}
