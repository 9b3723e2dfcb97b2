//! Grammars and regexes that users write: what is refused before they are compiled.

use super::FormError;
use llguidance::regex_to_lark;

/// Longest grammar and regex, in bytes: some work grows with the square of it.
const MOST_GRAMMAR_BYTES: usize = 8 << 10;
const MOST_REGEX_BYTES: usize = 2 << 10;
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
