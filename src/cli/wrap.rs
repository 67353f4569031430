//! Line breaks for help texts on a terminal. Elsewhere lines stay whole, since scripts search them.

/// The narrowest terminal that lines are broken for, in characters.
const LEAST: usize = 40;

/// The indentation of a description that has no room beside its option.
const BELOW: usize = 10;

/// Breaks the lines of a help text that are longer than `width` characters. Lines of commands, which start with
/// `command`, stay whole, so that they can be copied.
pub(super) fn wrapped(text: &str, width: usize, command: &str) -> String {
    let width = width.max(LEAST);
    let mut wrapped = String::new();
    for line in text.lines() {
        let is_command = line.trim_start().starts_with(command);
        if is_command || line.chars().count() <= width {
            wrapped.push_str(line);
            wrapped.push('\n');
        } else {
            wrapped.push_str(&broken(line, width));
        }
    }
    wrapped
}

/// Breaks one line. Its description continues below its start.
fn broken(line: &str, width: usize) -> String {
    let (before, description) = parted(line);
    let column = before.chars().count();
    let has_room = column <= width / 2;
    let indentation = if has_room { column } else { BELOW };
    let mut text = before.to_owned();
    let mut position = column;
    let mut is_start = has_room;
    for word in words(description) {
        let length = word.chars().count();
        if !is_start && position + 1 + length > width || !has_room && position == column {
            text.truncate(text.trim_end().len());
            text.push('\n');
            text.push_str(&" ".repeat(indentation));
            position = indentation;
        } else if !is_start {
            text.push(' ');
            position += 1;
        }
        text.push_str(word);
        position += length;
        is_start = false;
    }
    text.push('\n');
    text
}

/// Splits a line before its description, which is the text after `Usage:`, after the last wide gap, or all of it.
fn parted(line: &str) -> (&str, &str) {
    const USAGE: &str = "Usage: ";
    if line.starts_with(USAGE) {
        return line.split_at(USAGE.len());
    }
    let indentation = line.len() - line.trim_start().len();
    let rest = line.get(indentation..).unwrap_or_default();
    let gap = rest.find("  ").map_or(0, |gap| {
        let after = rest.get(gap..).unwrap_or_default();
        gap + (after.len() - after.trim_start().len())
    });
    line.split_at(indentation + gap)
}

/// Splits a text at spaces, but not inside of square brackets, so that an option stays with its value.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let at_space = move |character: char| {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        character == ' ' && depth == 0
    };
    text.split(at_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptions_continue_below_their_start() {
        let line = "  -f, --format <FMT>  Format of the image; it is probed by default";
        assert_eq!(
            wrapped(line, 48, "cowhide "),
            "  -f, --format <FMT>  Format of the image; it is\n\
             \x20                     probed by default\n"
        );
        assert_eq!(
            wrapped(line, 40, "cowhide "),
            "  -f, --format <FMT>\n\
             \x20         Format of the image; it is\n\
             \x20         probed by default\n"
        );
    }

    #[test]
    fn options_stay_with_their_values_and_commands_stay_whole() {
        assert_eq!(
            wrapped(
                "Usage: cowhide info [--object OBJDEF] [-q] [-f FMT] x",
                40,
                "cowhide "
            ),
            "Usage: cowhide info [--object OBJDEF]\n       [-q] [-f FMT] x\n"
        );
        let command = "  cowhide convert -f raw -O qcow2 --encrypt luks disk.img disk.qcow2\n";
        assert_eq!(wrapped(command, 40, "cowhide "), command);
    }

    #[test]
    fn short_lines_and_empty_ones_stay() {
        let text = "One\n\n  two\n";
        assert_eq!(wrapped(text, 10, "cowhide "), text);
    }
}
