//! Calls of tools in the text of an answer, found as it comes.
//!
//! What stands behind the marker follows the grammar of calls, so that it is read without guessing; it may end anywhere, where the answer
//! was cut.

use crate::grammar::CallSyntax;

/// A piece of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallPiece {
    /// A call begins.
    Begin {
        /// Which call of the choice.
        index: u32,
        /// The function.
        name: String,
    },
    /// More of its arguments.
    Arguments {
        /// Which call of the choice.
        index: u32,
        /// The text.
        text: String,
    },
}

/// What more text came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// Text outside of calls.
    pub text: String,
    /// Calls.
    pub calls: Vec<CallPiece>,
}

/// How calls stand in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Calling {
    /// How they are written.
    pub syntax: CallSyntax,
    /// Whether text may stand before them. If not, an answer that does not begin with the marker has none, whatever is in it.
    pub after_text: bool,
}

/// Reads one choice.
#[derive(Debug)]
pub struct CallReader {
    syntax: CallSyntax,
    after_text: bool,
    place: Place,
    /// Text that was not read yet, since what it is is not known.
    held: String,
    begun: u32,
}

/// Where the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Outside of calls.
    Text,
    /// In an answer without calls.
    Plain,
    /// Before the first call or between two, and in the name.
    Head,
    /// In the arguments of a call.
    Arguments(Json),
    /// Behind the arguments of a call.
    Tail,
}

/// How far a JSON object was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Json {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
}

impl Json {
    /// Takes a byte; true if the object is complete.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.in_string {
            self.in_string = self.is_escaped || byte != b'"';
            self.is_escaped = byte == b'\\' && !self.is_escaped;
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

impl CallReader {
    /// A reader at the beginning of an answer.
    pub fn new(Calling { syntax, after_text }: Calling) -> Self {
        Self { syntax, after_text, place: Place::Text, held: String::new(), begun: 0 }
    }

    /// Whether there are calls and none is cut short.
    pub fn has_whole_calls(&self) -> bool {
        self.begun > 0 && self.place == Place::Tail
    }

    /// Reads more text.
    pub fn push(&mut self, text: &str) -> Read {
        self.held.push_str(text);
        let mut read = Read::default();
        while self.advance(&mut read) {}
        read
    }

    /// The answer ends here. Of calls that never began the text is given back.
    pub fn finish(&mut self) -> Read {
        let held = std::mem::take(&mut self.held);
        let text = match self.place {
            Place::Text | Place::Plain => held,
            Place::Head if self.begun == 0 => format!("{}{held}", self.syntax.open),
            Place::Head | Place::Arguments(_) | Place::Tail => String::new(),
        };
        Read { text, calls: Vec::new() }
    }

    /// Reads on by one part; false if that needs more text.
    fn advance(&mut self, read: &mut Read) -> bool {
        match self.place {
            Place::Text => self.text(read),
            Place::Plain => {
                read.text.push_str(&std::mem::take(&mut self.held));
                false
            }
            Place::Head => self.head(read),
            Place::Arguments(json) => self.arguments(json, read),
            Place::Tail => self.tail(),
        }
    }

    fn text(&mut self, read: &mut Read) -> bool {
        let open = self.syntax.open;
        if !self.after_text && !self.held.starts_with(open) && !open.starts_with(&self.held) {
            self.place = Place::Plain;
            return true;
        }
        if let Some(at) = self.held.find(open) {
            read.text.push_str(&self.held[..at]);
            self.held.drain(..at + open.len());
            self.place = Place::Head;
            return true;
        }
        // The longest end that the marker may begin with stays.
        let kept = (1..open.len()).rev().find(|&length| self.held.ends_with(&open[..length])).unwrap_or(0);
        read.text.extend(self.held.drain(..self.held.len() - kept));
        false
    }

    fn head(&mut self, read: &mut Read) -> bool {
        use CallSyntax as S;
        let (Some(start), Some(end)) = (self.held.find(S::BEFORE_NAME), self.held.find(S::BEFORE_ARGUMENTS)) else { return false };
        let name = self.held.get(start + S::BEFORE_NAME.len()..end).unwrap_or_default().to_owned();
        read.calls.push(CallPiece::Begin { index: self.begun, name });
        self.held.drain(..end + S::BEFORE_ARGUMENTS.len());
        self.begun += 1;
        self.place = Place::Arguments(Json::default());
        true
    }

    fn arguments(&mut self, mut json: Json, read: &mut Read) -> bool {
        let end = self.held.bytes().position(|byte| json.ends_with(byte)).map(|last| last + 1);
        let text: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
        if !text.is_empty() {
            read.calls.push(CallPiece::Arguments { index: self.begun - 1, text });
        }
        self.place = if end.is_some() { Place::Tail } else { Place::Arguments(json) };
        end.is_some()
    }

    fn tail(&mut self) -> bool {
        // The brace closes the call, whose last part the arguments are.
        let Some(rest) = self.held.strip_prefix('}').and_then(|rest| rest.strip_prefix(self.syntax.between)) else { return false };
        self.held = rest.to_owned();
        self.place = Place::Head;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that is read of a text that comes in these pieces.
    fn read(syntax: CallSyntax, pieces: &[&str]) -> (String, Vec<(String, String)>, bool) {
        let mut reader = CallReader::new(Calling { syntax, after_text: true });
        let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
        let mut reads: Vec<Read> = pieces.iter().map(|piece| reader.push(piece)).collect();
        reads.push(reader.finish());
        for read in reads {
            text.push_str(&read.text);
            for piece in read.calls {
                match piece {
                    CallPiece::Begin { index, name } => {
                        assert_eq!(index as usize, calls.len());
                        calls.push((name, String::new()));
                    }
                    CallPiece::Arguments { index, text } => calls[index as usize].1.push_str(&text),
                }
            }
        }
        (text, calls, reader.has_whole_calls())
    }

    const ARGUMENTS: &str = r#"{"a": "}\"\\", "b": [{"c": "<tool_call>"}]}"#;

    fn answer(syntax: CallSyntax, calls: usize) -> String {
        let call = |i| format!("{{\"name\": \"f{i}\", \"arguments\": {ARGUMENTS}}}");
        let calls: Vec<String> = (0..calls).map(call).collect();
        format!("Hi <tool {}{}{}{}", syntax.open, syntax.before, calls.join(syntax.between), syntax.after)
    }

    #[test]
    fn text_without_calls_stays_text() {
        assert_eq!(read(CallSyntax::TAGS, &["a <", "b <tool_", "call <tool_call"]).0, "a <b <tool_call <tool_call");
        assert_eq!(read(CallSyntax::TAGS, &["a <tool_call>\n{\"name\": \"f"]), ("a <tool_call>\n{\"name\": \"f".into(), vec![], false));
    }

    #[test]
    fn a_marker_in_an_answer_that_does_not_begin_with_it_is_text() {
        let read = |text: &str| {
            let mut reader = CallReader::new(Calling { syntax: CallSyntax::TAGS, after_text: false });
            let mut reads: Vec<Read> = text.char_indices().map(|(at, c)| reader.push(&text[at..at + c.len_utf8()])).collect();
            reads.push(reader.finish());
            let calls = reads.iter().map(|read| read.calls.len()).sum::<usize>();
            (reads.into_iter().map(|read| read.text).collect::<String>(), calls > 0)
        };
        let json = "{\"a\": \"<tool_call>\", \"b\": {\"name\": \"x\", \"arguments\": {}}}";
        assert_eq!(read(json), (json.to_owned(), false));
        assert_eq!(read("<tool_"), ("<tool_".to_owned(), false));
        assert_eq!(read(&answer(CallSyntax::TAGS, 1)["Hi <tool ".len()..]), (String::new(), true));
    }

    proptest! {
        #[test]
        fn calls_are_read_however_the_text_comes_and_where_it_ends(
            list in any::<bool>(), calls in 1..4usize, cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6), end in any::<proptest::sample::Index>(),
        ) {
            let syntax = if list { CallSyntax::LIST } else { CallSyntax::TAGS };
            let whole = answer(syntax, calls);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len())).chain([0, whole.len()]).collect();
            at.sort_unstable();
            let pieces: Vec<&str> = at.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
            let expected: Vec<(String, String)> = (0..calls).map(|i| (format!("f{i}"), ARGUMENTS.to_owned())).collect();
            prop_assert_eq!(read(syntax, &pieces), ("Hi <tool ".to_owned(), expected.clone(), true));
            // Cut short: a beginning of the calls, the last one perhaps not whole.
            let (text, found, _) = read(syntax, &[&whole[..end.index(whole.len() + 1)]]);
            prop_assert!(whole.starts_with(&text));
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert_eq!(&found.0, &expected.0);
                prop_assert!(expected.1.starts_with(&found.1));
            }
        }
    }
}
