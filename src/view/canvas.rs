//! Text on a buffer: lines that are cut, never wrapped, in upstream's colours or in none.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};

use crate::report::text_width;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    Plain,
    Strong,
    Faint,
    Function,
    File,
    Warning,
    /// A share of the whole, in thousandths.
    Share(u16),
}

impl Ink {
    /// Of a part of a whole.
    pub fn of_share(share: f64) -> Self {
        Self::Share((share * 1000.0) as u16)
    }

    fn style(self, color: bool) -> Style {
        let plain = Style::new();
        let colored = |color_of| if color { plain.fg(color_of) } else { plain };
        match self {
            Self::Plain => plain,
            Self::Strong => plain.add_modifier(Modifier::BOLD),
            Self::Faint => plain.add_modifier(Modifier::DIM),
            Self::Function => colored(Color::Magenta).add_modifier(Modifier::BOLD),
            Self::File => colored(Color::Cyan),
            Self::Warning => colored(Color::Yellow).add_modifier(Modifier::BOLD),
            Self::Share(601..) => colored(Color::Red),
            Self::Share(201..) => colored(Color::Yellow),
            Self::Share(51..) => colored(Color::Green),
            Self::Share(_) => colored(Color::LightGreen),
        }
    }
}

/// A part of a buffer. What does not fit is left out.
pub struct Canvas<'a> {
    pub buffer: &'a mut Buffer,
    pub area: Rect,
    pub color: bool,
}

impl Canvas<'_> {
    /// Writes pieces one behind the other into a line, the first at `column`; gives the column behind them.
    pub fn line(&mut self, line: u16, column: u16, pieces: &[(Ink, &str)]) -> u16 {
        let mut column = column;
        for &(ink, text) in pieces {
            if line >= self.area.height || column >= self.area.width {
                return column;
            }
            let room = usize::from(self.area.width - column);
            let (x, y) = (self.area.x + column, self.area.y + line);
            let (end, _) = self.buffer.set_stringn(x, y, text, room, ink.style(self.color));
            column = end - self.area.x;
        }
        column
    }

    /// Marks a line as the one that is selected.
    pub fn select(&mut self, line: u16) {
        if line < self.area.height {
            let row = Rect::new(self.area.x, self.area.y + line, self.area.width, 1);
            self.buffer
                .set_style(row, Style::new().add_modifier(Modifier::REVERSED));
        }
    }

    /// A part of this one, cut to it.
    pub fn part(&mut self, x: u16, y: u16, width: u16, height: u16) -> Canvas<'_> {
        let wanted = Rect::new(
            self.area.x.saturating_add(x),
            self.area.y.saturating_add(y),
            width,
            height,
        );
        Canvas {
            area: wanted.intersection(self.area),
            buffer: self.buffer,
            color: self.color,
        }
    }

    /// Writes sentences, broken at spaces; gives the line behind them.
    pub fn sentence(&mut self, mut line: u16, ink: Ink, text: &str) -> u16 {
        let width = usize::from(self.area.width).max(1);
        let mut written = String::new();
        for word in text.split(' ') {
            if !written.is_empty() && text_width(&written) + 1 + text_width(word) > width {
                self.line(line, 0, &[(ink, &written)]);
                line = line.saturating_add(1);
                written.clear();
            }
            if !written.is_empty() {
                written.push(' ');
            }
            written.push_str(word);
        }
        self.line(line, 0, &[(ink, &written)]);
        line.saturating_add(1)
    }

    /// Keys and what they do, as many as fit, the first ones first.
    pub fn keys(&mut self, line: u16, keys: &[(&str, &str)]) {
        let mut column = 0;
        for (key, action) in keys {
            let length = text_width(key) + text_width(action) + 2;
            if usize::from(column) + length > usize::from(self.area.width) {
                return;
            }
            column = self.line(
                line,
                column,
                &[(Ink::Strong, key), (Ink::Plain, " "), (Ink::Faint, action)],
            ) + 2;
        }
    }
}

/// The lines of a list that are shown: keeps `selected` among the `height` from `top` on.
pub fn scroll(top: usize, selected: usize, height: usize, length: usize) -> usize {
    let height = height.max(1);
    let top = top.min(length.saturating_sub(height));
    top.clamp((selected + 1).saturating_sub(height), selected)
}

#[cfg(test)]
pub mod testing {
    //! A screen as text.

    use super::*;

    /// What stands there, without what is empty at the ends of lines.
    pub fn text(buffer: &Buffer) -> String {
        let mut text = String::new();
        for y in buffer.area.top()..buffer.area.bottom() {
            let mut line = String::new();
            let mut x = buffer.area.left();
            while x < buffer.area.right() {
                let symbol = buffer[(x, y)].symbol();
                line.push_str(symbol);
                // A wide character stands in two cells, the second of which is empty.
                x += text_width(symbol).max(1) as u16;
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Lines that are marked as selected.
    pub fn selected(buffer: &Buffer) -> Vec<u16> {
        let is_marked = |&y: &u16| {
            let cells = (buffer.area.left()..buffer.area.right()).map(|x| buffer[(x, y)].modifier);
            cells.into_iter().any(|modifier| modifier.contains(Modifier::REVERSED))
        };
        (buffer.area.top()..buffer.area.bottom()).filter(is_marked).collect()
    }

    pub fn has_color(buffer: &Buffer) -> bool {
        buffer
            .content()
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_selected_is_in_sight() {
        for length in [0, 1, 5, 100] {
            for selected in 0..length.max(1) {
                for height in [0, 1, 3, 200] {
                    for top in [0, 2, 99, 1000] {
                        let top = scroll(top, selected, height, length);
                        assert!(
                            top <= selected && selected < top + height.max(1),
                            "{length} {selected} {height}"
                        );
                    }
                }
            }
        }
        // As many lines as fit.
        assert_eq!(scroll(99, 99, 10, 100), 90);
        assert_eq!(scroll(50, 99, 200, 100), 0);
    }

    #[test]
    fn nothing_is_drawn_outside() {
        let mut buffer = Buffer::empty(Rect::new(0, 0, 5, 2));
        let area = buffer.area;
        let mut canvas = Canvas {
            buffer: &mut buffer,
            area,
            color: true,
        };
        canvas.line(9, 0, &[(Ink::Plain, "below")]);
        canvas.line(0, 9, &[(Ink::Plain, "beside")]);
        canvas.select(9);
        canvas.part(4, 1, 100, 100).line(0, 0, &[(Ink::Plain, "関x")]);
        canvas.part(9, 9, 1, 1).line(0, 0, &[(Ink::Plain, "x")]);
        assert_eq!(canvas.sentence(0, Ink::Plain, "a bc def a"), 2);
        assert_eq!(testing::text(&buffer), "a bc\ndef a\n");
    }
}
