//! Grammars in `llguidance`'s dialect of Lark: of regexes and choices, and those that users write, with what is refused before it is compiled.

use super::FormError;
use llguidance::regex_to_lark;
use serde_json::Value;

/// Longest grammar and regex, in bytes: some work grows with the square of it.
const MOST_GRAMMAR_BYTES: usize = 8 << 10;
const MOST_REGEX_BYTES: usize = 2 << 10;
/// Most texts of a choice, and their bytes together.
const MOST_CHOICES: usize = 1_000;
const MOST_CHOICE_BYTES: usize = 16 << 10;
/// What the library would understand and this server does not enforce, or what leads to special tokens.
const REFUSED: [&str; 7] = ["%json", "%llguidance", "%lark", "%regex", "temperature", "<", "@"];

/// A grammar of the regex. `\d` and `\w` are ASCII, as in JSON schemas: digits of other scripts are seldom meant.
pub(super) fn of_regex(regex: &str) -> Result<String, FormError> {
    let regex = unanchored(regex);
    if regex.is_empty() {
        return Err(FormError::whole("must not be empty: nothing could be generated"));
    }
    check_length("regex", regex, MOST_REGEX_BYTES)?;
    Ok(format!("start: /{}/", regex_to_lark(regex, "dw")))
}

/// A grammar of a user, checked.
pub(super) fn checked(grammar: &str) -> Result<String, FormError> {
    check_length("grammar", grammar, MOST_GRAMMAR_BYTES)?;
    let bare = without_literals(grammar);
    if bare.contains("::=") {
        return Err(FormError::whole("must be in Lark's notation ('start: …'); '::=' is that of GBNF"));
    }
    match REFUSED.iter().find(|refused| bare.contains(**refused)) {
        Some(refused) => Err(FormError::whole(format!("has '{refused}', which is not supported"))),
        None => Ok(grammar.to_owned()),
    }
}

/// What all choices of `texts` come to.
pub(super) fn choice(texts: &[String]) -> Result<String, FormError> {
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(FormError::whole("must have at least one text, and no empty ones"));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if texts.len() > MOST_CHOICES || bytes > MOST_CHOICE_BYTES {
        let problem =
            format!("must have at most {MOST_CHOICES} texts of {MOST_CHOICE_BYTES} bytes together, got {} of {bytes}", texts.len());
        return Err(FormError::whole(problem));
    }
    let options: Vec<String> = texts.iter().map(|text| literal(text)).collect();
    Ok(format!("start: {}", options.join(" | ")))
}

/// A string of the grammar; Lark's are written as JSON's.
pub(super) fn literal(text: &str) -> String {
    // The lexer of grammars takes no raw DEL.
    Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn check_length(what: &str, text: &str, most: usize) -> Result<(), FormError> {
    match text.len() {
        bytes if bytes > most => Err(FormError::whole(format!("is too long: a {what} must have at most {most} bytes, got {bytes}"))),
        _ => Ok(()),
    }
}

/// The grammar without strings, regexes and comments.
fn without_literals(grammar: &str) -> String {
    let (mut bare, mut chars) = (String::new(), grammar.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => chars.by_ref().take_while(|c| *c != '\n').for_each(drop),
            '#' => chars.by_ref().take_while(|c| *c != '\n').for_each(drop),
            '"' | '/' => {
                let mut is_escaped = false;
                let is_inside = |other: &char| {
                    let ends = *other == c && !is_escaped;
                    is_escaped = *other == '\\' && !is_escaped;
                    !ends
                };
                chars.by_ref().take_while(is_inside).for_each(drop);
            }
            other => bare.push(other),
        }
    }
    bare
}

/// The regex without anchors at its ends: the whole text is matched anyway.
fn unanchored(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()).is_multiple_of(2) => rest,
        _ => regex,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_enforced_is_refused_but_not_in_literals() {
        for refused in
            ["start: %json {}", "start: a[temperature=1.5]\na: \"b\"", "start: <[2]>", "start: </s>", "start ::= \"a\"", "start: @a"]
        {
            assert!(checked(refused).is_err(), "{refused}");
        }
        for fine in ["start: \"%json <a>\"", "start: /<[a-z]+\\/>/ // <a>", "start: \"\\\"<\" | a\na: /@/\n# temperature"] {
            assert!(checked(fine).is_ok(), "{fine}");
        }
        assert!(checked(&"a".repeat(9_000)).is_err() && of_regex(&"a".repeat(3_000)).is_err());
    }
}
