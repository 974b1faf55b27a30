//! Plain tables for people, and numbers as people read them.

/// A table whose columns are as wide as they need to be.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// How a column is aligned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

impl Table {
    /// A table with these column titles. A column whose title starts with `<` is aligned to the left.
    pub(crate) fn new(titles: &[&'static str]) -> Self {
        let column = |&title: &&'static str| match title.strip_prefix('<') {
            Some(title) => (title, Align::Left),
            None => (title, Align::Right),
        };
        Self { columns: titles.iter().map(column).collect(), rows: vec![] }
    }

    /// Adds a row, one cell per column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = |row: &'_ Vec<String>, c: usize| row.get(c).map_or(0, |text| text.chars().count());
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(c, (title, _))| self.rows.iter().map(|row| cell(row, c)).max().unwrap_or(0).max(title.len()))
            .collect();
        let titles: Vec<String> = self.columns.iter().map(|(title, _)| (*title).to_owned()).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            let mut line = String::new();
            for ((text, &width), (_, align)) in row.iter().zip(&widths).zip(&self.columns) {
                match align {
                    Align::Left => line += &format!("{text:<width$}  "),
                    Align::Right => line += &format!("{text:>width$}  "),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A number of bytes in decimal units, with three digits.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (count as f64, 0);
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A duration in seconds, as milliseconds below a second.
pub(crate) fn seconds(value: f64) -> String {
    match value {
        v if v < 0.01 => format!("{:.2} ms", v * 1e3),
        v if v < 1.0 => format!("{:.1} ms", v * 1e3),
        v => format!("{v:.2} s"),
    }
}

/// A number and its noun.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["<name", "value"]);
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["long".to_owned(), "123456".to_owned()]);
        assert_eq!(table.to_string(), "name   value\na          1\nlong  123456\n");
    }

    #[test]
    fn bytes_keep_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_600, "1.00 MB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
