//! Marks on typed text, which survive the template and say what of its output was typed.
//!
//! A mark replaces a character by a private-use one that the conversation and the template do not use. Only characters that occur in
//! special tokens are marked, never white space: trimming, splitting into lines, escaping and measuring then work as without marks.
//! Where a template does look at such characters, [`Marking::mark_special`] marks only what could become a special token.

use super::{ChatInput, FINAL_MARK, RenderedChat};
use crate::tokenizer::{SpecialTokens, TemplateError};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

/// The private-use planes, 15 and 16.
const PRIVATE_USE: [std::ops::RangeInclusive<char>; 2] = ['\u{F0000}'..='\u{FFFFD}', '\u{100000}'..='\u{10FFFD}'];

/// A one-to-one map from the characters of special tokens to their marks.
pub(super) struct Marking {
    marks: HashMap<char, char>,
    originals: HashMap<char, char>,
}

impl Marking {
    /// Chooses marks that neither the conversation nor the template's source uses.
    pub(super) fn new(input: &ChatInput<'_>, source: &str) -> Result<Self, TemplateError> {
        let mut used = HashSet::from([FINAL_MARK]);
        note(source, &mut used);
        for message in input.messages {
            note(&message.content, &mut used);
            note(message.name.as_deref().unwrap_or_default(), &mut used);
            message.extra.values().for_each(|value| note_value(value, &mut used));
        }
        for value in input.extra.values() {
            note_value(value, &mut used);
        }
        let mut free = PRIVATE_USE.into_iter().flatten().filter(|c| !used.contains(c));
        let mut marking = Self { marks: HashMap::new(), originals: HashMap::new() };
        for &original in input.special_tokens.alphabet() {
            let mark = free.next().ok_or(TemplateError::NoMarkersLeft)?;
            marking.marks.insert(original, mark);
            marking.originals.insert(mark, original);
        }
        Ok(marking)
    }

    /// Marks every character that has a mark.
    pub(super) fn mark(&self, text: &str) -> String {
        text.chars().map(|c| *self.marks.get(&c).unwrap_or(&c)).collect()
    }

    /// Marks special tokens, and a beginning or an end of one at the edges of the text, where what follows or precedes it could
    /// complete it.
    pub(super) fn mark_special(&self, text: &str, special: &SpecialTokens) -> String {
        let mut ranges: Vec<Range<usize>> = special.find(text).collect();
        let (head, tail) = (text.len() - text.trim_start().len(), text.trim_end().len());
        for token in special.contents() {
            let cuts = || token.char_indices().map(|(cut, _)| cut).skip(1);
            ranges.extend(cuts().filter(|&cut| text[..tail].ends_with(&token[..cut])).map(|cut| tail - cut..tail));
            ranges.extend(cuts().filter(|&cut| text[head..].starts_with(&token[cut..])).map(|cut| head..head + token.len() - cut));
        }
        ranges.sort_unstable_by_key(|range| range.start);
        let (mut marked, mut done) = (String::with_capacity(text.len()), 0);
        for range in ranges {
            let start = range.start.max(done);
            if start < range.end {
                marked.push_str(&text[done..start]);
                marked.push_str(&self.mark(&text[start..range.end]));
                done = range.end;
            }
        }
        marked + &text[done..]
    }

    /// Takes the marks off and says where they were.
    pub(super) fn unmark(&self, marked: &str) -> RenderedChat {
        let mut rendered = RenderedChat { text: String::with_capacity(marked.len()), typed: Vec::new() };
        for c in marked.chars() {
            let start = rendered.text.len();
            let Some(&original) = self.originals.get(&c) else {
                rendered.text.push(c);
                continue;
            };
            rendered.text.push(original);
            let end = rendered.text.len();
            match rendered.typed.last_mut() {
                Some(range) if range.end == start => range.end = end,
                _ => rendered.typed.push(start..end),
            }
        }
        rendered
    }
}

/// Notes the private-use characters of a text.
fn note(text: &str, used: &mut HashSet<char>) {
    used.extend(text.chars().filter(|c| PRIVATE_USE.iter().any(|plane| plane.contains(c))));
}

fn note_value(value: &Value, used: &mut HashSet<char>) {
    match value {
        Value::String(text) => note(text, used),
        Value::Array(items) => items.iter().for_each(|item| note_value(item, used)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            note(key, used);
            note_value(value, used);
        }),
        _ => {}
    }
}
