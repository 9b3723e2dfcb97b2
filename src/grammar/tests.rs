//! What forms let through, and how the others are refused.

use super::{CallSyntax, Calls, Compiler, Form, FormError, Function, Otherwise};
use crate::generation::{ConstraintState, TokenId};
use crate::tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

struct Fixture {
    tokenizer: Arc<Tokenizer>,
    compiler: Compiler,
    /// Ids by spelling.
    ids: HashMap<Vec<u8>, TokenId>,
    eos: TokenId,
}

static DEMO: LazyLock<Fixture> = LazyLock::new(|| fixture("models/demo"));
static LLAMA: LazyLock<Fixture> = LazyLock::new(|| fixture("target/fixtures/llama-tokenizer"));

fn fixture(folder: &str) -> Fixture {
    let file = |name: &str| std::fs::read(format!("{}/{folder}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let tokenizer = Arc::new(Tokenizer::from_bytes(&file("tokenizer.json"), Some(&file("tokenizer_config.json"))).unwrap());
    let eos = tokenizer.eos_token().unwrap().1;
    let vocab_size = tokenizer.vocab_size();
    let plain = (0..vocab_size as TokenId).filter(|&id| !tokenizer.is_special(id));
    let ids = plain.map(|id| (tokenizer.token_bytes(id), id)).collect();
    Fixture { compiler: Compiler::new(tokenizer.clone(), vec![eos], vocab_size), tokenizer, ids, eos }
}

impl Fixture {
    /// The text cut into the longest tokens.
    fn tokens(&self, text: &str) -> Vec<TokenId> {
        let (mut rest, mut tokens) = (text.as_bytes(), Vec::new());
        while !rest.is_empty() {
            let length = (1..=rest.len()).rev().find(|&length| self.ids.contains_key(&rest[..length])).unwrap();
            tokens.push(self.ids[&rest[..length]]);
            rest = &rest[length..];
        }
        tokens
    }

    fn allows(&self, state: &dyn ConstraintState, token: TokenId) -> bool {
        let mut row = vec![true; self.tokenizer.vocab_size()];
        state.mask().inspect(|mask| mask.fill_others(&mut row, false));
        row[token as usize]
    }

    /// How much of the text a state lets through, and whether it may end there.
    fn follow(&self, state: &mut dyn ConstraintState, text: &str) -> (usize, bool) {
        let mut done = 0;
        for token in self.tokens(text) {
            state.prepare().unwrap();
            if !self.allows(state, token) {
                return (done, false);
            }
            done += self.tokenizer.token_bytes(token).len();
            if state.accept(token).unwrap() {
                return (done, true);
            }
        }
        state.prepare().unwrap();
        (done, self.allows(state, self.eos))
    }

    fn accepts(&self, form: &Form, text: &str) -> bool {
        let constraint = self.compiler.compile(form).unwrap();
        self.follow(&mut *constraint.0.begin(), text) == (text.len(), true)
    }

    fn refused(&self, form: &Form) -> FormError {
        self.compiler.compile(form).unwrap_err()
    }
}

fn schema(schema: Value) -> Form {
    Form::JsonSchema(schema)
}

#[test]
fn json_has_at_most_one_space_after_colons_and_commas() {
    for fixture in [&*DEMO, &*LLAMA] {
        let accepts = |text: &str| fixture.accepts(&Form::JsonObject, text);
        assert!(accepts(r#"{"a":1,"b":[true,null,"x y"]}"#));
        assert!(accepts(r#"{"a": 1, "b": [true, null, {"c": {}}]}"#));
        assert!(accepts("{\"ä\\n\": \"日本\"}"));
        for not in ["[1]", " {}", "{ }", "{\"a\":  1}", "{\"a\" : 1}", "{\"a\":1\n}", "{\"a\":1} ", "{\"a\":\"\n\"}", "{"] {
            assert!(!accepts(not), "{not}");
        }
    }
}

#[test]
fn schemas_regexes_choices_and_grammars() {
    let person = schema(json!({
        "type": "object", "additionalProperties": false, "required": ["name"], "title": "Person", "x-order": 1,
        "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "friend": {"$ref": "#"}},
    }));
    for (form, good, bad) in [
        (person, r#"{"name":"Bo", "age":150, "friend":{"name":"Al"}}"#, r#"{"name":"Bo", "age":151}"#),
        (Form::Regex(r"^[A-Z]\d{2,3}(a|b)*$".into()), "X123abba", "X1"),
        (Form::Regex(r"[\d/]+".into()), "1/2", "١"),
        (Form::Regex(r"a\$".into()), "a$", "a"),
        (Form::Regex(r"a\\$".into()), "a\\", "a"),
        (Form::Choice(vec!["yes".into(), "yes \"and\" no".into()]), "yes \"and\" no", "no"),
        (Form::Choice(vec!["yes".into(), "yes \"and\" no".into()]), "yes", "yes "),
        (Form::Grammar("start: word (\" \" word)*\nword: /[a-z]+/".into()), "ab cd", "ab  cd"),
        (schema(json!({"enum": ["a", 1, null]})), "null", "2"),
        (schema(json!({"anyOf": [{"type": "boolean"}, {"const": {"k": [1]}}]})), r#"{"k":[1]}"#, r#"{"k":[2]}"#),
        (schema(json!(true)), "[1, {}]", "[1,"),
    ] {
        assert!(DEMO.accepts(&form, good), "{form:?}: {good}");
        assert!(!DEMO.accepts(&form, bad), "{form:?}: {bad}");
    }
}

#[test]
fn objects_that_list_properties_have_no_others_unless_the_schema_says_so() {
    let listed = json!({"a": {"type": "integer"}});
    let other = r#"{"a":1,"b":2}"#;
    for (form, is_open) in [
        (json!({"type": "object", "properties": listed}), false),
        (json!({"type": "object", "properties": listed, "additionalProperties": true}), true),
        (json!({"type": "object", "properties": listed, "required": ["b"]}), true),
        (json!({"type": "object", "properties": listed, "patternProperties": {"^b": {}}}), true),
        (json!({"type": "object", "required": ["a"]}), true),
        (json!({"allOf": [{"type": "object", "properties": listed}, {"type": "object", "properties": {"b": {}}}]}), true),
        (json!({"$defs": {"x": {"type": "object", "properties": listed}}, "$ref": "#/$defs/x"}), false),
        (json!({"anyOf": [{"type": "object", "properties": listed}, {"type": "null"}]}), false),
    ] {
        assert_eq!(DEMO.accepts(&schema(form.clone()), other), is_open, "{form}");
        assert!(DEMO.accepts(&schema(form.clone()), r#"{"a":1}"#) || form["required"] == json!(["b"]), "{form}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_keyword_and_path() {
    let object = |property: Value| json!({"type": "object", "properties": {"a": {"type": "array", "items": property}}});
    for (part, keyword) in [
        (json!({"not": {}}), "not"),
        (json!({"type": "string", "format": "telephone"}), "format"),
        (json!({"type": "string", "format": "unknown"}), "format"),
        (json!({"type": "string", "pattern": "(?=a)b"}), "pattern"),
        (json!({"type": "text"}), "type"),
        (json!({"type": "integer", "minimum": 5, "maximum": 1}), ""),
        (json!({"$ref": "https://example.com/schema"}), "$ref"),
        (json!({"$ref": "#/$defs/none"}), "$ref"),
        (json!({"oneOf": [{"type": "integer"}, {"type": "number"}]}), "oneOf"),
        (json!({"minimun": 1}), "minimun"),
        (json!({"contains": {}}), "contains"),
        (json!({"uniqueItems": true}), "uniqueItems"),
        (json!({"type": "object", "properties": 5}), "properties"),
        (json!({"x-guidance": {"whitespace_flexible": true}}), "x-guidance"),
    ] {
        let form = schema(object(part.clone()));
        if keyword.is_empty() {
            // Nothing can stand in the list, which may then only be empty.
            assert!(DEMO.accepts(&form, r#"{"a":[]}"#));
            continue;
        }
        let FormError { path, problem } = DEMO.refused(&form);
        assert_eq!(path, format!(".properties.a.items.{keyword}"), "{part}: {problem}");
        assert!(problem.contains("cannot be enforced") && problem.contains(keyword), "{problem}");
        assert!(!problem.contains("coerce_one_of"), "an option that users do not have: {problem}");
    }
    let whole = |form| DEMO.refused(&form);
    assert_eq!(whole(schema(json!(5))).path, "");
    assert!(whole(schema(json!(false))).problem.contains("cannot be enforced"));
    for form in [
        Form::Regex("(".into()),
        Form::Regex("^$".into()),
        Form::Regex("(?=a)".into()),
        Form::Choice(vec![]),
        Form::Choice(vec!["".into()]),
        Form::Grammar("root ::= \"a\"".into()),
        Form::Grammar("start: nothing".into()),
        Form::Grammar("".into()),
    ] {
        let error = whole(form.clone());
        assert!(error.path.is_empty() && !error.problem.is_empty() && !error.problem.contains('\n'), "{form:?}: {error:?}");
    }
}

#[test]
fn what_the_library_would_pass_over_or_change_is_refused() {
    for (wrong, path) in [
        (json!({"const": 9_007_199_254_740_993i64}), ".const"),
        (json!({"enum": ["a", [1_234_567_890_123_456_789i64]]}), ".enum"),
        (json!({"type": "integer", "minimum": u64::MAX}), ".minimum"),
        (json!({"type": "array", "prefixItems": [{"type": "boolean"}], "additionalItems": false}), ".additionalItems"),
        (json!({"type": "array", "prefixItems": [{"type": "boolean"}], "items": [{}]}), ".prefixItems"),
        (json!({"x-defs": {"a": {"type": "integer"}}, "$ref": "#/x-defs/a"}), ".$ref"),
        (json!({"default": {"type": "integer"}, "$ref": "#/default"}), ".$ref"),
        (json!({"$defs": {"a": {"$id": "http://x/a", "type": "null"}}, "$ref": "#/$defs/a"}), ".$defs.a.$id"),
        (json!({"type": "object", "patternProperties": {"^a$": {}}, "minProperties": 2}), ".minProperties"),
        (json!({"allOf": [{"multipleOf": 65_536}, {"multipleOf": 65_537}], "type": "integer"}), ""),
        (json!({"type": "integer", "minimum": "é".repeat(99)}), ".minimum"),
    ] {
        let error = DEMO.refused(&schema(wrong.clone()));
        assert_eq!(error.path, path, "{wrong}: {error}");
        assert!(error.problem.len() < 300 && !error.problem.contains("backtrace"), "{error}");
    }
    // A name is not another one because it is spelled in another way.
    let names = json!({"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"const": 2}});
    assert!(DEMO.accepts(&schema(names.clone()), r#"{"b":2}"#) && !DEMO.accepts(&schema(names), r#"{"\u0061":2}"#));
    // The draft that a schema names changes nothing, and annotations beside a reference do not either.
    let draft = json!({"$schema": "http://json-schema.org/draft-04/schema#", "properties": {"a": {"const": 5}}, "required": ["a"], "type": "object"});
    assert!(DEMO.accepts(&schema(draft.clone()), r#"{"a":5}"#) && !DEMO.accepts(&schema(draft), r#"{"a":6}"#));
    let list = json!({"type": "object", "properties": {"next": {"$ref": "#", "deprecated": true, "x-y": 1}}});
    assert!(DEMO.accepts(&schema(list), r#"{"next":{"next":{}}}"#));
    assert!(DEMO.accepts(&Form::Choice(vec!["\u{7f}x".into()]), "\u{7f}x"));
}

/// `llguidance` 1.9 lets a bound through that is excluded, where it has no fraction and the other bound has the same integer part.
#[test]
fn bounds_that_are_excluded_are_not_reached() {
    let number = |bounds: Value| {
        let mut fields = bounds.as_object().unwrap().clone();
        fields.insert("type".into(), json!("number"));
        Value::Object(fields)
    };
    for (bounds, good, bad) in [
        (json!({"exclusiveMinimum": 0, "exclusiveMaximum": 0.1}), &["0.05", "0.000001"][..], &["0", "0.0", "-0", "0.1"][..]),
        (json!({"minimum": 0, "exclusiveMinimum": true, "maximum": 0.1}), &["0.05"], &["0", "-0"]),
        (json!({"exclusiveMinimum": 5, "exclusiveMaximum": 5.25}), &["5.1", "5.20"], &["5", "5.0", "5.25"]),
        (json!({"minimum": -0.5, "exclusiveMaximum": 0}), &["-0.5", "-0.1"], &["0", "-0", "-0.0", "-0.6"]),
        (json!({"exclusiveMinimum": -5.25, "exclusiveMaximum": -5}), &["-5.1"], &["-5", "-5.0", "-5.25"]),
        (json!({"exclusiveMinimum": 0, "exclusiveMaximum": 1}), &["0.5", "0.05"], &["0", "1", "1.0"]),
        (json!({"exclusiveMinimum": 0}), &["0.5", "1", "1234.5"], &["0", "-1", "0.0"]),
        (json!({"exclusiveMinimum": -1, "exclusiveMaximum": 1}), &["0", "-0.5", "0.5"], &["-1", "1", "-1.0"]),
    ] {
        for text in good {
            assert!(DEMO.accepts(&schema(number(bounds.clone())), text), "{bounds}: {text}");
        }
        let nested = json!({"$defs": {"x": number(bounds.clone())}, "anyOf": [{"type": "array", "items": {"$ref": "#/$defs/x"}}]});
        for text in bad {
            assert!(!DEMO.accepts(&schema(number(bounds.clone())), text), "{bounds}: {text}");
            assert!(!DEMO.accepts(&schema(nested.clone()), &format!("[{text}]")), "{bounds}: [{text}]");
        }
        assert!(DEMO.accepts(&schema(nested), &format!("[{}]", good[0])), "{bounds}");
    }
    for (bounds, good, bad) in [
        (json!({"exclusiveMinimum": 5, "exclusiveMaximum": 8}), ["6", "7"], ["5", "8"]),
        (json!({"exclusiveMinimum": -3, "exclusiveMaximum": 0}), ["-2", "-1"], ["-3", "0"]),
        (json!({"exclusiveMinimum": 9_007_199_254_740_000i64}), ["9007199254740001", "9007199254740002"], ["9007199254740000", "5"]),
    ] {
        let mut integer = number(bounds.clone());
        integer["type"] = json!("integer");
        assert!(good.iter().all(|text| DEMO.accepts(&schema(integer.clone()), text)), "{bounds}");
        assert!(!bad.iter().any(|text| DEMO.accepts(&schema(integer.clone()), text)), "{bounds}");
    }
    let narrow = json!({"type": "object", "properties": {"a": number(json!({"exclusiveMinimum": 0, "maximum": 1e-10}))}});
    let error = DEMO.refused(&schema(narrow));
    assert_eq!(error.path, ".properties.a.exclusiveMinimum");
    assert!(error.problem.contains("too narrow"), "{error}");
}

/// Inputs that made the server overflow its stack, take minutes or gigabytes, or hold up the engine. That there is an answer within a second
/// is measured by `benches/hostile.py`; here: that there is one.
#[test]
fn bombs_are_refused_or_bounded() {
    let nested = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let named = |count: usize, value: &dyn Fn(usize) -> Value| -> Value {
        Value::Object((0..count).map(|i| (format!("^{i}$"), value(i))).collect())
    };
    let chain = |links: usize| {
        let link = |i: usize| {
            (format!("a{i}"), if i + 1 < links { json!({"$ref": format!("#/$defs/a{}", i + 1)}) } else { json!({"type": "null"}) })
        };
        json!({"$defs": (0..links).map(link).collect::<serde_json::Map<_, _>>(), "$ref": "#/$defs/a0"})
    };
    let rules = |count: usize| (0..count).map(|i| format!("r{i}: \"a\" r{} | \"b\"\n", i + 1)).collect::<String>();
    let bombs = [
        Form::Regex("((a{1,1000}){1,1000}){1,1000}".into()),
        Form::Regex("(a|aa)*(b|bb)*c{5000}".repeat(50)),
        Form::Regex("[a-z]{0,60000}x".into()),
        Form::Regex("a?".repeat(50_000)),
        Form::Regex("a?".repeat(1_000)),
        Form::Regex((0..20_000).map(|i| format!("{i}z|")).collect()),
        Form::Regex((0..300).map(|i| format!("{i}z|")).collect()),
        schema(nested),
        schema(chain(1_000)),
        schema(json!({"type": "object", "properties": named(5_000, &|_| json!({}))})),
        schema(json!({"type": "object", "properties": named(250, &|_| json!({}))})),
        schema(json!({"patternProperties": named(800, &|_| json!({}))})),
        schema(json!({"patternProperties": named(16, &|_| json!({}))})),
        schema(json!({"type": "string", "maxLength": 1_000_000_000})),
        schema(json!({"type": "array", "minItems": 100_000_000})),
        schema(json!({"$ref": "#"})),
        Form::Grammar(format!("start: r0\n{}r2000: \"c\"", rules(2_000))),
        Form::Grammar(format!("start: r0\n{}r200: \"c\"", rules(200))),
        Form::Grammar(format!("start: {}", "\"a\"? ".repeat(20_000))),
        Form::Grammar(format!("start: {}", "\"a\"? ".repeat(1_500))),
        Form::Grammar("start: start start | \"a\"".into()),
        Form::Grammar("start: s\ns: \"(\" s \")\" s | s s | \"a\" | \"b\" | \"\"".into()),
        Form::Choice((0..100_000).map(|i| i.to_string()).collect()),
        Form::Choice((0..1_000).map(|i| i.to_string()).collect()),
    ];
    let run = move || {
        for form in bombs {
            let (shown, started) = (format!("{form:?}").chars().take(50).collect::<String>(), std::time::Instant::now());
            let compiled = DEMO.compiler.compile(&form);
            let compiling = started.elapsed();
            let outcome = match &compiled {
                Ok(constraint) => steps(&mut *constraint.0.begin()),
                Err(error) => format!("refused: {}", error.problem.chars().take(60).collect::<String>()),
            };
            println!("{compiling:>10.1?} {:>10.1?} {shown} {outcome}", started.elapsed() - compiling);
        }
    };
    // As the server does: schemas are followed by recursion.
    std::thread::Builder::new().stack_size(64 << 20).spawn(run).unwrap().join().unwrap();
}

/// Takes the first tokens that are allowed; what came of it.
fn steps(state: &mut dyn ConstraintState) -> String {
    for step in 0..20 {
        if let Err(error) = state.prepare() {
            return format!("step {step}: {error}");
        }
        let allowed = (0..DEMO.tokenizer.vocab_size() as TokenId).find(|&token| DEMO.allows(state, token));
        let Some(token) = allowed else { return format!("nothing allowed at step {step}") };
        match state.accept(token) {
            Ok(false) => {}
            Ok(true) => return format!("complete after {step}"),
            Err(error) => return format!("step {step}: {error}"),
        }
    }
    "20 steps".to_owned()
}

fn calls(otherwise: Otherwise, most: u32) -> Form {
    let function = |name: &str, parameters| Function { name: name.to_owned(), parameters };
    let functions = vec![
        function(
            "add",
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}),
        ),
        function("now", json!({"type": "object", "properties": {}, "additionalProperties": false})),
    ];
    Form::Calls(Calls { functions, syntax: CallSyntax::TAGS, most, otherwise })
}

const CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\":7}}\n</tool_call>";
const NOW: &str = "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>";

#[test]
fn calls_that_must_come() {
    let required = calls(Otherwise::Nothing, 2);
    assert!(DEMO.accepts(&required, CALL));
    assert!(DEMO.accepts(&required, &format!("{CALL}\n{NOW}")));
    for not in
        [format!("{CALL}\n{NOW}\n{NOW}"), "Hello".to_owned(), CALL.replace('7', "\"7\""), CALL.replace("add", "sub"), format!("{CALL}\n")]
    {
        assert!(!DEMO.accepts(&required, &not), "{not}");
    }
    let or_json = calls(Otherwise::Json(json!({"type": "object"})), 1);
    assert!(DEMO.accepts(&or_json, "{\"a\":1}"));
    assert!(DEMO.accepts(&or_json, CALL));
    assert!(!DEMO.accepts(&or_json, "a"));
}

#[test]
fn calls_that_may_come_follow_the_grammar_from_the_marker_on() {
    for fixture in [&*DEMO, &*LLAMA] {
        let constraint = fixture.compiler.compile(&calls(Otherwise::Text, 2)).unwrap();
        let follow = |text: &str| fixture.follow(&mut *constraint.0.begin(), text);
        for free in ["Hello, <tool_ call>!", "<<tool_call", CALL] {
            assert_eq!(follow(free), (free.len(), true), "{free}");
        }
        let both = format!("Well. {CALL}\n{NOW}");
        assert_eq!(follow(&both), (both.len(), true));
        let (done, may_end) = follow("Well. <tool_call>\n{\"name\": \"sub\"");
        assert!(!may_end && done <= "Well. <tool_call>\n{\"name\": \"".len(), "{done}");
        assert!(!follow(&format!("{CALL} more")).1);
    }
}

#[test]
fn templates_tell_how_calls_are_written() {
    assert_eq!(CallSyntax::of_template("{% if tools %}<tool_call>{% endif %}"), Some(CallSyntax::TAGS));
    assert_eq!(CallSyntax::of_template("{{ '[TOOL_CALLS]' }}"), Some(CallSyntax::LIST));
    assert_eq!(CallSyntax::of_template("{{ tools }}"), None);
}

#[test]
fn a_model_without_an_end_takes_no_forms() {
    let compiler = Compiler::new(DEMO.tokenizer.clone(), vec![], DEMO.tokenizer.vocab_size());
    assert!(compiler.compile(&Form::JsonObject).unwrap_err().problem.contains("end with a token"));
}

#[test]
fn schemas_of_tools_are_named() {
    let mut form = calls(Otherwise::Text, 1);
    let Form::Calls(calls) = &mut form else { unreachable!() };
    calls.functions[1].parameters = json!({"type": "object", "properties": {"x": {"type": "string", "format": "odd"}}});
    assert_eq!(DEMO.refused(&form).path, "[1].function.parameters.properties.x.format");
}

#[test]
fn sequences_of_one_form_do_not_meet() {
    let constraint = DEMO.compiler.compile(&Form::Choice(vec!["ab".into(), "cd".into()])).unwrap();
    let again = DEMO.compiler.compile(&Form::Choice(vec!["ab".into(), "cd".into()])).unwrap();
    assert_eq!(constraint, again, "it is remembered");
    let (mut one, mut other) = (constraint.0.begin(), again.0.begin());
    assert_eq!(DEMO.follow(&mut *one, "a"), (1, false));
    assert_eq!(DEMO.follow(&mut *other, "cd"), (2, true));
    assert_eq!(DEMO.follow(&mut *one, "b"), (1, true));
}
