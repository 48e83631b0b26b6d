//! The Jinja environment of chat templates.

use std::time::{SystemTime, UNIX_EPOCH};

use bitnet_core::error::printable;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::ChatError;

/// Steps of an honest template, generously: each buys one instruction or 64 bytes.
const FUEL: u64 = 1_000_000;

/// Most characters of a reason.
const MOST_REASON: usize = 300;

/// Checks that a template of a file can be parsed, and returns it as it is to be rendered.
pub(super) fn prepare(source: &str, file: &str) -> Result<String, ChatError> {
    let source = without_generation_tags(source);
    let environment = environment(FUEL, file)?;
    environment.template_from_named_str(file, &source).map_err(|error| syntax_error(&error, file))?;
    Ok(source)
}

/// Renders a template over messages of so many bytes, which earn it fuel in proportion.
pub(super) fn render(source: &str, file: &str, context: Value, bytes: usize) -> Result<String, ChatError> {
    let fuel = FUEL.saturating_add(bytes as u64);
    let environment = environment(fuel, file)?;
    let template =
        environment.template_from_named_str(file, source).map_err(|error| syntax_error(&error, file))?;
    template.render(context).map_err(|error| match root_cause(&error).kind() {
        ErrorKind::OutOfFuel => ChatError::OutOfFuel { file: file.to_string(), fuel },
        _ => ChatError::Render {
            file: file.to_string(),
            line: error.line().unwrap_or(1),
            reason: reason(&error),
        },
    })
}

fn environment(fuel: u64, file: &str) -> Result<Environment<'static>, ChatError> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|error| syntax_error(&error, file))?);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(fuel));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| strftime(&format, unix_seconds()));
    environment.add_filter("tojson", tojson);
    // The engine counts nothing as iterable; templates ask before they take the length of `tools`.
    environment.add_test("iterable", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::String)
    });
    Ok(environment)
}

fn syntax_error(error: &Error, file: &str) -> ChatError {
    ChatError::Syntax { file: file.to_string(), line: error.line().unwrap_or(1), reason: reason(error) }
}

/// Returns what went wrong, on one line of bearable length: templates make their own messages.
fn reason(error: &Error) -> String {
    let cause = root_cause(error);
    let text = cause.detail().map_or_else(|| cause.kind().to_string(), str::to_string);
    printable(&text.split_whitespace().collect::<Vec<_>>().join(" "), MOST_REASON)
}

fn root_cause(error: &Error) -> &Error {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    source.map_or(error, root_cause)
}

/// Turns `{% generation %}` blocks, which mark what a model is trained on, into blocks that render
/// their body; whitespace control at their tags keeps its effect.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        rest = tag;
        let Some(end) = tag.find("%}") else { break };
        let inside = &tag[..end];
        let name = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let plain = match name {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => continue,
        };
        out.push_str(&inside.replacen(name, plain, 1));
        rest = &tag[end..];
    }
    out.push_str(rest);
    out
}

/// JSON as Python writes it: the engine's own filter hides four characters from HTML.
fn tojson(value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let json = minijinja::filters::tojson(value, indent, options)?.to_string();
    let mut out = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = &rest[at..];
        let hidden = [("\\u003c", '<'), ("\\u003e", '>'), ("\\u0026", '&'), ("\\u0027", '\'')]
            .into_iter()
            .find_map(|(spelling, character)| escape.strip_prefix(spelling).map(|tail| (character, tail)));
        match hidden {
            Some((character, tail)) => {
                out.push(character);
                rest = tail;
            }
            None => {
                // The backslash and what it escapes, so that an escaped backslash is not read twice.
                let end = escape.char_indices().nth(2).map_or(escape.len(), |(end, _)| end);
                out.push_str(&escape[..end]);
                rest = &escape[end..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// Formats a time in UTC; a specifier that is not known is an error, not left out.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_date(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[((days + 4) % 7) as usize]);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let mut specifier = characters.next();
        let padded = specifier != Some('-');
        if !padded {
            specifier = characters.next();
        }
        let two = |value: u64| if padded { format!("{value:02}") } else { value.to_string() };
        out += &match specifier {
            Some('Y') => year.to_string(),
            Some('y') => two(year % 100),
            Some('m') => two(month),
            Some('d') => two(day),
            Some('H') => two(hour),
            Some('I') => two(hour12),
            Some('M') => two(minute),
            Some('S') => two(second),
            Some('B') => month_name.to_string(),
            Some('b') => month_name[..3].to_string(),
            Some('A') => day_name.to_string(),
            Some('a') => day_name[..3].to_string(),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_string(),
            Some('%') => "%".to_string(),
            other => {
                let other = other.map(String::from).unwrap_or_default();
                let text = format!("strftime_now does not know %{other}");
                return Err(Error::new(ErrorKind::InvalidOperation, text));
            }
        };
    }
    Ok(out)
}

/// The Gregorian date of a day counted from 1970-01-01.
///
/// Years are counted from March, so that the leap day ends one: 400 of them are 146,097 days.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        for (seconds, text) in [
            (0, "Thu 01 January 1970 00:00:00 12 AM"),
            (951_782_400, "Tue 29 February 2000 00:00:00 12 AM"),
            (1_709_251_199, "Thu 29 February 2024 23:59:59 11 PM"),
            (1_735_646_400, "Tue 31 December 2024 12:00:00 12 PM"),
            (4_107_542_400, "Mon 01 March 2100 00:00:00 12 AM"),
        ] {
            assert_eq!(strftime("%a %d %B %Y %H:%M:%S %I %p", seconds).unwrap(), text);
        }
        assert_eq!(strftime("%-d %b %y %%", 86_400 * 4).unwrap(), "5 Jan 70 %");
        for format in ["%Q", "%", "%-"] {
            assert!(strftime(format, 0).is_err(), "{format}");
        }
    }

    #[test]
    fn generation_tags_keep_their_whitespace_control() {
        let text = "a{%- generation -%} b {% endgeneration %}{{ generation }}{%";
        let plain = "a{%- if true -%} b {% endif %}{{ generation }}{%";
        assert_eq!(without_generation_tags(text), plain);
    }
}
