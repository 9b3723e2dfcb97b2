"""A thousand JSON schemas, made from seeds: whatever the model says under one is valid by the schema as it was written.

Every schema can be fulfilled. Most bound what they ask for: a small model goes on with a text or the digits of a number until the grammar
ends it. The others end by length, and must be the beginning of JSON."""

import calendar
import decimal
import json
import random
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pydantic_core
from jsonschema import Draft202012Validator, FormatChecker

SCHEMAS = 1000
AT_ONCE = 16
LENGTH = 160
LEAST_WHOLE = 700
DEPTH = 3
MESSAGES = [{"role": "user", "content": "Tell me about a pet."}]

NAMES = ["name", "age", "a b", "größe", 'say "hi"', "$id", "x-y", "path/to", "back\\slash", "kind", "items", "名", "q?", "tags", "0"]
VALUES = [
    "red",
    "",
    'a "b"',
    "c:\\d",
    "tab\there",
    "größe",
    "😀",
    0,
    -7,
    12345678901,
    1.5,
    -0.25,
    True,
    False,
    None,
    [],
    {},
    [1, "a"],
    {"b": 2},
]
# With texts of 4 and of 8 characters among what they match, so that lengths can stand beside them.
PATTERNS = ["^[a-z]{2,8}$", "^\\d{1,8}$", "^[A-F][a-f]{3,7}$", "x", "^a", "z$", "^(ab|cd){2,4}$", "^\\w+$", "^[^\\s]*$", "[0-9]"]
FORMATS = ["date", "date-time", "time", "email", "uuid", "ipv4"]
# Steps that a float holds exactly or a decimal does.
STEPS = [0.5, 0.25, 0.1, 0.01, 0.2, 2.5, 1.1, 3]
# Names that match one are matched by no other.
NAME_PATTERNS = ["^n_\\w?$", "^[A-Z]{1,4}$", "^\\d{1,3}$"]
KEYWORDS = """$defs $ref additionalProperties anyOf const enum exclusiveMaximum exclusiveMinimum format items maxItems maxLength
maxProperties maximum minItems minLength minimum multipleOf oneOf pattern patternProperties prefixItems properties required type""".split()


class Maker:
    """Makes one schema from a seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.definitions = {}

    def root(self):
        """The schema, with the definitions that it refers to."""
        schema = self.random.choice([self.an_object] * 6 + [self.some_map, self.an_array, self.a_tuple, self.any_kind])(DEPTH)
        return schema | {"$defs": self.definitions} if self.definitions else schema

    def some(self, chance=0.5):
        return self.random.random() < chance

    def any_kind(self, depth):
        flat = [self.an_enum, self.a_const, self.an_integer, self.a_number, self.a_string, self.a_pattern, self.a_format]
        flat += [self.a_simple_type, self.a_nullable]
        nested = [self.an_object, self.some_map, self.an_array, self.a_tuple, self.any_of, self.one_of, self.tagged]
        nested += [self.a_reference] + ([] if self.definitions else [self.a_recursion])
        return self.random.choice(flat + nested if depth > 0 else flat)(depth - 1)

    def an_enum(self, _):
        return {"enum": self.random.sample(VALUES, self.random.randint(1, 5))}

    def a_const(self, _):
        return {"const": self.random.choice(VALUES)}

    def a_simple_type(self, _):
        return {"type": self.random.choice(["boolean", "null"])}

    def bounds(self, span):
        """None, one or mostly two, each of either kind."""
        low = self.random.randint(-1000, 1000)
        found = {}
        if self.some(0.95):
            found[self.random.choice(["minimum", "exclusiveMinimum"])] = low
        if self.some(0.95):
            found[self.random.choice(["maximum", "exclusiveMaximum"])] = low + span
        return found

    def an_integer(self, _):
        step = self.random.choice([2, 3, 7, 10])
        extra = {"multipleOf": step} if self.some(0.3) else {}
        return {"type": "integer"} | self.bounds(self.random.randint(2 * step, 500)) | extra

    def a_number(self, _):
        step = self.random.choice(STEPS)
        extra = {"multipleOf": step} if self.some(0.9) else {}
        bounds = {key: value + self.random.choice([0, 0.5, 0.125]) for key, value in self.bounds(self.random.randint(10, 500)).items()}
        return {"type": "number"} | bounds | extra

    def lengths(self):
        """A range that has 4 or 8 in it."""
        found = {"minLength": self.random.randint(0, 4)} if self.some() else {}
        return found | {"maxLength": self.random.randint(8, 12)} if self.some(0.95) else found

    def a_string(self, _):
        return {"type": "string"} | self.lengths()

    def a_pattern(self, _):
        return {"type": "string", "pattern": self.random.choice(PATTERNS)} | self.lengths()

    def a_format(self, _):
        name = self.random.choice(FORMATS)
        return {"type": "string", "format": name} | ({"maxLength": 20} if name in ("email", "time") and self.some(0.9) else {})

    def a_nullable(self, _):
        kind = self.random.choice([self.an_integer, self.a_number, self.a_string, self.a_pattern, self.a_format])
        schema = kind(0)
        return schema | {"type": self.random.choice([[schema["type"], "null"], ["null", schema["type"], "boolean"]])}

    def an_object(self, depth):
        names = self.random.sample(NAMES, self.random.randint(1, 3))
        schema = {"type": "object", "properties": {name: self.any_kind(depth) for name in names}}
        schema["required"] = [name for name in names if self.some(0.6)]
        if self.some(0.6):
            schema["additionalProperties"] = self.rest(depth, 0.94)
        return schema

    def rest(self, depth, closed):
        return False if self.some(closed) else self.random.choice([True, self.any_kind(depth)])

    def some_map(self, depth):
        """An object whose names are not listed, or in part."""
        patterns = self.random.sample(NAME_PATTERNS, self.random.choice([0, 1, 1, 1, 1, 2, 2, 2, 2]))
        schema = {"type": "object", "additionalProperties": self.rest(depth, 0.9 if patterns else 0), "maxProperties": 3}
        if patterns:
            schema["patternProperties"] = {pattern: self.any_kind(depth) for pattern in patterns}
        if self.some(0.3):
            # Both the pattern and the property hold for a name that matches.
            schema["properties"] = {"n_0": True, "name": self.any_kind(depth)}
            schema["required"] = ["n_0", "name"]
        return schema

    def an_array(self, depth):
        least = self.random.randint(0, 2)
        schema = {"type": "array", "items": self.any_kind(depth)}
        if self.some():
            schema["minItems"] = least
        if self.some(0.96):
            schema["maxItems"] = least + self.random.randint(0, 2)
        return schema

    def a_tuple(self, depth):
        first = [self.any_kind(depth) for _ in range(self.random.randint(1, 3))]
        schema = {"type": "array", "prefixItems": first, "minItems": self.random.randint(0, len(first))}
        schema["items"] = self.rest(depth, 0.8)
        return schema if schema["items"] is False else schema | {"maxItems": len(first) + 1}

    def any_of(self, depth):
        return {"anyOf": [self.any_kind(depth) for _ in range(self.random.randint(1, 3))]}

    def one_of(self, depth):
        """Alternatives of types that have no value in common."""
        kinds = [self.a_format, self.an_integer, self.an_array, self.an_object, self.a_simple_type]
        return {"oneOf": [kind(depth) for kind in self.random.sample(kinds, self.random.randint(2, 3))]}

    def tagged(self, depth):
        """Objects of which a constant tells which it is."""

        def alternative(tag):
            own = {"tag": {"const": tag}, self.random.choice(NAMES): self.any_kind(depth)}
            return {"type": "object", "properties": own, "required": list(own), "additionalProperties": False}

        return {"oneOf": [alternative(tag) for tag in ("a", "b", "c")[: self.random.randint(2, 3)]]}

    def define(self, schema):
        name = f"part{len(self.definitions)}"
        self.definitions[name] = schema
        return {"$ref": f"#/$defs/{name}"}

    def a_reference(self, depth):
        if self.definitions and self.some():
            return {"$ref": f"#/$defs/{self.random.choice(list(self.definitions))}"}
        return self.define(self.any_kind(depth))

    def a_recursion(self, depth):
        """A definition that refers to itself where it need not go on."""
        node = {"type": "object", "properties": {"value": self.any_kind(0)}, "required": ["value"], "additionalProperties": False}
        reference = self.define(node)
        more = [reference, {"anyOf": [reference, {"type": "null"}]}, {"type": "array", "items": reference, "maxItems": 2}]
        node["properties"]["more"] = self.random.choice(more)
        return reference


FORMAT_CHECKER = FormatChecker(["email", "uuid", "ipv4"])


def checks(name):
    """Adds a format of texts; anything else has every format."""

    def add(check):
        FORMAT_CHECKER.checks(name)(lambda value: not isinstance(value, str) or check(value))
        return check

    return add


@checks("date")
def is_date(text):
    """A day that there is; Python's own dates begin with year 1."""
    found = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)", text, re.ASCII)
    year, month, day = map(int, found.groups()) if found else (0, 0, 0)
    return 1 <= month <= 12 and 1 <= day <= calendar.mdays[month] + (month == 2 and calendar.isleap(year))


@checks("time")
def is_time(text):
    """A time of RFC 3339, in which a minute may have 61 seconds."""
    zone = r"[zZ]|[+-]([01]\d|2[0-3]):[0-5]\d"
    return bool(re.fullmatch(rf"([01]\d|2[0-3]):[0-5]\d:([0-5]\d|60)(\.\d+)?({zone})", text, re.ASCII))


@checks("date-time")
def is_date_time(text):
    return text[10:11] in ("T", "t") and is_date(text[:10]) and is_time(text[11:])


def exactly(text):
    """JSON with its numbers as they are written."""
    return json.loads(text, parse_float=Decimal)


def problems(schema, text):
    """What is wrong with an answer that is whole."""
    try:
        value = exactly(text)
    except ValueError as error:
        return [f"is not JSON: {error}"]
    validator = Draft202012Validator(exactly(json.dumps(schema)), format_checker=FORMAT_CHECKER)
    with decimal.localcontext(prec=4 * LENGTH):
        return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def problems_of_part(text):
    """What is wrong with the beginning of an answer."""
    try:
        pydantic_core.from_json(text, allow_partial="trailing-strings", allow_inf_nan=False)
    except ValueError as error:
        return [f"is not the beginning of JSON: {error}"]
    outside = re.sub(r'"([^"\\]|\\.)*("|\\?$)', '""', text)
    return ["has white space that a model could go on with for ever"] if re.search(r"\s\s|[^\S ]", outside) else []


def ask(server, index, schema):
    """The reply for a schema."""
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    sampling = {"temperature": 1, "top_p": 1, "top_k": 0, "seed": index, "max_tokens": LENGTH}
    return server.post("/v1/chat/completions", {"messages": MESSAGES, "response_format": wanted} | sampling)


def keywords(schema):
    """Names of fields, which the names of properties are among."""
    if isinstance(schema, dict):
        return set(schema).union(*map(keywords, schema.values()))
    return set().union(*map(keywords, schema)) if isinstance(schema, list) else set()


def judge(index, schema, reply):
    """How the answer ended, and what is wrong with it."""
    told = f"seed {index}: {json.dumps(schema, ensure_ascii=False)}\n  "
    if reply.status != 200:
        return "refused", [f"{told}{reply.text}"]
    (choice,) = reply.json["choices"]
    text, ended = choice["message"]["content"], choice["finish_reason"]
    found = problems(schema, text) if ended == "stop" else problems_of_part(text)
    return ended, [f"{told}{text!r}\n  {problem}" for problem in found]


def test_answers_are_valid_by_a_thousand_schemas(wide):
    schemas = [Maker(index).root() for index in range(SCHEMAS)]
    for schema in schemas:
        Draft202012Validator.check_schema(schema)
    used = Counter(keyword for schema in schemas for keyword in keywords(schema))
    assert all(used[keyword] >= 20 for keyword in KEYWORDS), used
    with ThreadPoolExecutor(AT_ONCE) as pool:
        replies = list(pool.map(lambda item: ask(wide, *item), enumerate(schemas)))
    ends, wrong = Counter(), []
    for index, (schema, reply) in enumerate(zip(schemas, replies, strict=True)):
        ended, found = judge(index, schema, reply)
        ends[ended] += 1
        wrong += found
    print(dict(ends))
    assert not wrong, f"{len(wrong)} of {dict(ends)}\n" + "\n".join(wrong[:10])
    assert set(ends) <= {"stop", "length"} and ends["stop"] >= LEAST_WHOLE, ends
