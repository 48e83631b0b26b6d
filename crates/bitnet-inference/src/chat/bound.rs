//! Bounds what the engine's fuel does not: lists that a template grows without paying for it.
//!
//! The engine joins and repeats lists lazily, so `x + x` costs the same however long `x` is, and a list
//! of two lists is small however much it writes out. [`prepared`] therefore passes every value that a
//! template binds to a name (`set`, `with`, `for`, and the parameters of `macro` and `call`) through the
//! filter [`FILTER`], which refuses what weighs too much and replaces lazy lists by plain ones. The same
//! check stands before everything that writes out a container. Within one tag growth is bounded by
//! refusing long chains of `+`, and `*` beside `~`, whose operands nothing here sees.
//!
//! This is a guard against templates that explode, found by looking at what the engine leaves
//! uncharged; it is no proof that nothing else does.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, State, Value};

/// The filter that checks a bound value. The name is none that a template would use.
pub(super) const FILTER: &str = "bounded_value";

/// Weight of a value that messages of no length allow. An item weighs 16, a string its bytes.
pub(super) const WEIGHT: usize = 1 << 20;

/// Lists in lists that a value may have.
const DEPTH: usize = 32;

/// Operators `+` in one tag: from 33 on, the engine copies joined lists without charging them.
const CHAIN: usize = 32;

/// Items that are looked at for one step of fuel.
const ITEMS_PER_STEP: usize = 8;

/// Fails for a value that weighs more than `limit`, nests deeply or holds a namespace (which may
/// hold itself).
pub(super) fn check(state: &State, value: &Value, limit: usize) -> Result<(), Error> {
    let mut walk = Walk { left: limit, items: 0 };
    let outcome = walk.visit(value, 0);
    state.consume_fuel((walk.items / ITEMS_PER_STEP) as u64)?;
    outcome
}

/// Checks a value that is bound to a name; a lazy list becomes a plain one.
pub(super) fn bind(state: &State, value: Value, limit: usize) -> Result<Value, Error> {
    if is_namespace(&value) {
        return Ok(value);
    }
    check(state, &value, limit)?;
    if value.kind() == ValueKind::Iterable && value.len().is_some() {
        return Ok(Value::from(value.try_iter()?.collect::<Vec<Value>>()));
    }
    Ok(value)
}

/// Checks how long a text the methods `replace`, `join` and `format` would make, which cost nothing before they end.
pub(super) fn check_text(text: &Value, method: &str, arguments: &[Value], limit: usize) -> Result<(), Error> {
    let (Some(text), Some(first)) = (text.as_str(), arguments.first()) else { return Ok(()) };
    let second = arguments.get(1).and_then(Value::as_str).map_or(0, str::len);
    let length = match (method, first.as_str()) {
        ("replace", Some(old)) => text.matches(old).count().saturating_mul(second),
        ("join", _) => first.len().unwrap_or(0).saturating_mul(text.len()),
        ("format", _) if has_large_width(text) => usize::MAX,
        _ => 0,
    };
    // The weight that messages earn has room for what honest replacements add to a content.
    if length > limit { Err(refused("a text is larger than any that the messages can give")) } else { Ok(()) }
}

/// Whether a format has a width of more than four digits, or one that comes from an argument.
fn has_large_width(format: &str) -> bool {
    format.split('{').filter_map(|part| part.split_once(':')).any(|(name, rest)| {
        let (specifier, closed) = rest.split_once('}').map_or((rest, false), |(inside, _)| (inside, true));
        let long = specifier.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 4);
        !name.contains('}') && (!closed || long)
    })
}

fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

fn refused(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason.to_string())
}

struct Walk {
    left: usize,
    items: usize,
}

impl Walk {
    fn visit(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.items += 1;
        self.pay(16)?;
        if let Some(text) = value.as_str() {
            return self.pay(text.len());
        }
        let kind = value.kind();
        if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            return Ok(());
        }
        if depth == DEPTH {
            return Err(refused("a value nests more than 32 levels"));
        }
        if is_namespace(value) {
            return Err(refused("a namespace cannot be written out or held by another value"));
        }
        // A joined list knows its length: one that is too long is not walked at all.
        if value.len().is_some_and(|length| length > self.left / 16) {
            return self.pay(self.left.saturating_add(1));
        }
        for key in value.try_iter()? {
            if kind == ValueKind::Map {
                self.visit(&value.get_item(&key)?, depth + 1)?;
            }
            self.visit(&key, depth + 1)?;
        }
        Ok(())
    }

    fn pay(&mut self, weight: usize) -> Result<(), Error> {
        self.left = self
            .left
            .checked_sub(weight)
            .ok_or_else(|| refused("a value is larger than any that the messages can give"))?;
        Ok(())
    }
}

/// Rewrites a template so that bound values are checked, and `{% generation %}` blocks, which mark
/// what a model is trained on, render their body. Lines and whitespace control stay as they are.
///
/// Errors: a tag with more operators than [`CHAIN`], by its line and what is wrong.
pub(super) fn prepared(source: &str) -> Result<String, (usize, String)> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut raw = false;
    while let Some(at) = rest.find('{') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let close = match tail.as_bytes().get(1) {
            Some(b'%') => "%}",
            Some(b'{') if !raw => "}}",
            Some(b'#') if !raw => {
                let end = tail.find("#}").map_or(tail.len(), |end| end + 2);
                out.push_str(&tail[..end]);
                rest = &tail[end..];
                continue;
            }
            _ => {
                out.push('{');
                rest = &tail[1..];
                continue;
            }
        };
        let inside = &tail[2..];
        let found = if raw { inside.find(close) } else { end_of_tag(inside, close) };
        let Some(end) = found else {
            out.push_str(&tail[..2]);
            rest = inside;
            // Not closed: the parser says where.
            break;
        };
        let (tag, after) = (&inside[..end], &inside[end + 2..]);
        let name = tag.trim_matches(is_margin);
        if raw && name != "endraw" {
            out.push_str(&tail[..2]);
            rest = inside;
            continue;
        }
        raw = close == "%}" && name == "raw";
        refuse_chains(tag)
            .map_err(|reason| (1 + source[..source.len() - tail.len()].matches('\n').count(), reason))?;
        out.push_str(&tail[..2]);
        if close == "%}" {
            statement(tag, &mut out)
        } else {
            out.push_str(tag)
        }
        out.push_str(close);
        if close == "%}" {
            rebind(tag, &mut out);
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn is_margin(character: char) -> bool {
    character.is_whitespace() || matches!(character, '-' | '+')
}

/// What stands in a tag outside its strings: characters with their place and their bracket depth.
fn code(tag: &str) -> impl Iterator<Item = (usize, char, usize)> {
    let (mut quote, mut escaped, mut depth) = (None, false, 0usize);
    tag.char_indices().filter_map(move |(at, character)| {
        if let Some(open) = quote {
            if escaped {
                escaped = false;
            } else if character == '\\' {
                escaped = true;
            } else if character == open {
                quote = None;
            }
            return None;
        }
        match character {
            '\'' | '"' => {
                quote = Some(character);
                return None;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        Some((at, character, depth))
    })
}

/// Finds where a tag closes: brackets may hold `}}`, strings anything.
fn end_of_tag(inside: &str, close: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, character, _) in code(inside) {
        if open == 0 && inside[at..].starts_with(close) {
            return Some(at);
        }
        match character {
            '(' | '[' | '{' => open += 1,
            ')' | ']' | '}' => open = open.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn refuse_chains(tag: &str) -> Result<(), String> {
    let count = |wanted: char| code(tag).filter(|&(_, character, _)| character == wanted).count();
    if count('+') > CHAIN {
        return Err(format!("more than {CHAIN} operators + in one tag"));
    }
    if count('~') > 0 && count('*') > 0 {
        return Err("the operators ~ and * in one tag".to_string());
    }
    Ok(())
}

/// Writes a statement with its assigned value under the check.
fn statement(tag: &str, out: &mut String) {
    let name = tag.trim_matches(is_margin);
    let plain = match name {
        "generation" => Some("if true"),
        "endgeneration" => Some("endif"),
        _ => None,
    };
    if let Some(plain) = plain {
        out.push_str(&tag.replacen(name, plain, 1));
        return;
    }
    let assigned = (keyword(name) == "set")
        .then(|| code(tag).find(|&(_, character, depth)| character == '=' && depth == 0))
        .flatten();
    let Some((at, ..)) = assigned else {
        out.push_str(tag);
        return;
    };
    let (target, value) = tag.split_at(at + 1);
    let body = value.trim_end_matches(is_margin);
    out.push_str(&format!("{target} ({body})|{FILTER} {}", &value[body.len()..]));
}

fn keyword(name: &str) -> &str {
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}

/// Writes checks of the names that a tag binds otherwise.
fn rebind(tag: &str, out: &mut String) {
    let name = tag.trim_matches(is_margin);
    let keyword = keyword(name);
    let body = &name[keyword.len()..];
    let names = match keyword {
        "for" => identifiers(body.split(" in ").next().unwrap_or(""), |_| true),
        "with" => identifiers(body, |(depth, next)| depth == 0 && next == Some('=')),
        "macro" => identifiers(body, |(depth, next)| depth == 1 && matches!(next, Some(',' | ')' | '='))),
        "call" if body.trim_start().starts_with('(') => {
            let end = code(body).find(|&(_, c, depth)| c == ')' && depth == 0).map_or(0, |(at, ..)| at + 1);
            identifiers(&body[..end], |(depth, _)| depth == 1)
        }
        _ => Vec::new(),
    };
    let trim = if tag.ends_with('-') {
        "-"
    } else if tag.ends_with('+') {
        "+"
    } else {
        ""
    };
    for name in names {
        out.push_str(&format!("{{% set {name} = ({name})|{FILTER} {trim}%}}"));
    }
}

/// Returns the identifiers for which `wanted` holds, given their depth and the next character.
fn identifiers(text: &str, wanted: impl Fn((usize, Option<char>)) -> bool) -> Vec<&str> {
    let code: Vec<_> = code(text).collect();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    let mut index = 0;
    while index < code.len() {
        let (start, first, depth) = code[index];
        let mut end = start;
        while index < code.len() && is_part(code[index].1) && code[index].0 <= end.max(start) {
            end = code[index].0 + code[index].1.len_utf8();
            index += 1;
        }
        if end == start {
            index += 1;
            continue;
        }
        let next = text[end..].chars().find(|c| !c.is_whitespace());
        if !first.is_numeric() && wanted((depth, next)) {
            names.push(&text[start..end]);
        }
    }
    names
}
