//! Tables in boxes. The first column is a place in the code and gives way; numbers and titles are never cut.

use std::io::{self, Write};

use super::location::{Place, keep_left, width};
use super::paint::{Paint, Style};

/// Where functions with their `file:line` need up to this and have less, the cells give up their padding.
const PLACE_WIDTH_WANTED: usize = 40;
/// A place never gets less; a terminal that is too narrow even so wraps the lines itself.
const PLACE_WIDTH_MIN: usize = 10;

/// One line of the first column's cell.
#[derive(Clone, Debug)]
pub enum PlaceLine {
    /// What comes before, a place, what comes after.
    Place {
        before: &'static str,
        place: Place,
        after: String,
    },
    /// Short, or cut at its end.
    Text(String),
}

/// One row: the first column's lines, then a number for each further column.
#[derive(Clone, Debug)]
pub struct Row {
    pub lines: Vec<PlaceLine>,
    pub numbers: Vec<(String, Style)>,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table {
    /// The first is the place's.
    pub titles: Vec<String>,
    pub rows: Vec<Row>,
}

impl PlaceLine {
    fn width(&self) -> usize {
        match self {
            Self::Place { before, place, after } => width(before) + place.width() + width(after),
            Self::Text(text) => width(text),
        }
    }

    /// Without directories.
    fn short_width(&self) -> usize {
        match self {
            Self::Place { before, place, after } => width(before) + place.short_width() + width(after),
            Self::Text(text) => width(text),
        }
    }

    /// Writes the line in exactly `columns` columns, or more if it can't be cut down to them.
    fn write(&self, columns: usize, paint: Paint, out: &mut impl Write) -> io::Result<()> {
        let used = match self {
            Self::Place { before, place, after } => {
                let around = width(before) + width(after);
                let fitted = place.fit(columns.saturating_sub(around).max(2));
                write!(out, "{before}")?;
                paint.write(Style::Function, &fitted.function, out)?;
                write!(out, "{}", fitted.separator())?;
                paint.write(Style::File, &fitted.file_line, out)?;
                write!(out, "{after}")?;
                around + fitted.width()
            }
            Self::Text(text) => {
                let text = keep_left(text, columns);
                write!(out, "{text}")?;
                width(&text)
            }
        };
        write!(out, "{:1$}", "", columns.saturating_sub(used))
    }
}

/// Widths of the columns, without padding.
struct Layout {
    widths: Vec<usize>,
    padding: &'static str,
}

impl Table {
    /// Writes the table, no wider than `columns` where that is possible.
    pub fn write(&self, columns: usize, paint: Paint, out: &mut impl Write) -> io::Result<()> {
        let layout = self.layout(columns);
        self.write_header(&layout, paint, out)?;
        for row in &self.rows {
            for (index, line) in row.lines.iter().enumerate() {
                write!(out, "│{}", layout.padding)?;
                line.write(layout.widths[0], paint, out)?;
                write!(out, "{}│", layout.padding)?;
                for ((number, style), columns) in row.numbers.iter().zip(&layout.widths[1..]) {
                    let number = if index == 0 { number } else { "" };
                    write!(
                        out,
                        "{}{:2$}",
                        layout.padding,
                        "",
                        columns.saturating_sub(width(number))
                    )?;
                    paint.write(*style, number, out)?;
                    write!(out, "{}│", layout.padding)?;
                }
                writeln!(out)?;
            }
        }
        rule(&layout, ["└", "─", "┴", "┘"], out)
    }

    fn layout(&self, columns: usize) -> Layout {
        let mut widths: Vec<usize> = (0..self.titles.len())
            .map(|column| self.content_width(column))
            .collect();
        let longest_place = widths[0];
        let room = |widths: &[usize], padding: usize| {
            let others: usize = widths[1..].iter().sum();
            columns.saturating_sub(others + widths.len() + 1 + 2 * padding * widths.len())
        };
        let mut padding = " ";
        let lines = self.rows.iter().flat_map(|row| &row.lines);
        let longest_short = lines.map(PlaceLine::short_width).max().unwrap_or(0);
        if room(&widths, 1) < PLACE_WIDTH_WANTED.min(longest_short) {
            padding = "";
        }
        widths[0] = longest_place.min(room(&widths, padding.len()).max(PLACE_WIDTH_MIN));
        // What the places leave over goes to titles that would otherwise take several lines.
        for column in 1..widths.len() {
            let wanted = width(&self.titles[column]);
            let others_room = room(&widths, padding.len()).saturating_sub(widths[0]);
            if wanted > widths[column] && wanted - widths[column] <= others_room {
                widths[column] = wanted;
            }
        }
        Layout { widths, padding }
    }

    /// The width that a column can't do without; of the first, the width that it would like.
    fn content_width(&self, column: usize) -> usize {
        let words = self.titles[column].split(' ').map(width);
        let cells = self.rows.iter().map(|row| match column {
            0 => row.lines.iter().map(PlaceLine::width).max().unwrap_or(0),
            _ => row.numbers.get(column - 1).map_or(0, |(number, _)| width(number)),
        });
        words.chain(cells).max().unwrap_or(0)
    }

    fn write_header(&self, layout: &Layout, paint: Paint, out: &mut impl Write) -> io::Result<()> {
        let titles: Vec<Vec<String>> = self
            .titles
            .iter()
            .zip(&layout.widths)
            .map(|(title, &width)| wrap(title, width))
            .collect();
        let height = titles.iter().map(Vec::len).max().unwrap_or(0);
        rule(layout, ["┏", "━", "┳", "┓"], out)?;
        for line in 0..height {
            write!(out, "┃")?;
            for (column, (lines, &columns)) in titles.iter().zip(&layout.widths).enumerate() {
                // Short titles stand at the bottom.
                let text = (line + lines.len())
                    .checked_sub(height)
                    .map_or("", |line| lines[line].as_str());
                let missing = columns.saturating_sub(width(text));
                let (before, after) = if column == 0 { (0, missing) } else { (missing, 0) };
                write!(out, "{}{:before$}", layout.padding, "")?;
                paint.write(Style::Title, text, out)?;
                write!(out, "{:after$}{}┃", "", layout.padding)?;
            }
            writeln!(out)?;
        }
        rule(layout, ["┡", "━", "╇", "┩"], out)
    }
}

fn rule(layout: &Layout, [left, line, between, right]: [&str; 4], out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<String> = layout
        .widths
        .iter()
        .map(|width| line.repeat(width + 2 * layout.padding.len()))
        .collect();
    writeln!(out, "{left}{}{right}", cells.join(between))
}

/// Words in lines of at most `columns`; a longer word has a line of its own.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        match lines.last_mut() {
            Some(line) if width(line) + 1 + width(word) <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
