//! Tools in conversations whose chat template knows none: definitions, calls and results as text.
//!
//! Definitions stand in the system message, each as a line of JSON; calls are written as [`CallSyntax`] says; the result of a call is a
//! message of the user between `<tool_response>` and `</tool_response>`. The format is described in `docs/api.md`.

use crate::grammar::CallSyntax;
use crate::tokenizer::ChatMessage;
use serde_json::Value;

/// The conversation as a template sees it that knows no tools.
pub(super) fn spell(messages: Vec<ChatMessage>, tools: &[Value], syntax: CallSyntax) -> Vec<ChatMessage> {
    let mut messages: Vec<ChatMessage> = messages.into_iter().map(|message| spell_message(message, syntax)).collect();
    if tools.is_empty() {
        return messages;
    }
    let instructions = instructions(tools, syntax);
    match messages.first_mut().filter(|message| message.role == "system") {
        Some(system) if system.content.is_empty() => system.content = instructions,
        Some(system) => system.content = format!("{}\n\n{instructions}", system.content),
        None => messages.insert(0, ChatMessage { role: "system".to_owned(), content: instructions, ..ChatMessage::default() }),
    }
    messages
}

fn instructions(tools: &[Value], syntax: CallSyntax) -> String {
    let definitions: Vec<String> = tools.iter().map(|tool| tool["function"].to_string()).collect();
    let example = call_text("NAME", "{…}");
    format!(
        "You can call these functions, given as JSON:\n{}\nTo call one, write:\n{}{}{example}{}\nIts result comes between <tool_response> and </tool_response>.",
        definitions.join("\n"),
        syntax.open,
        syntax.before,
        syntax.after
    )
}

fn spell_message(message: ChatMessage, syntax: CallSyntax) -> ChatMessage {
    let ChatMessage { role, content, name, mut extra } = message;
    if role == "tool" {
        let content = format!("<tool_response>\n{content}\n</tool_response>");
        return ChatMessage { role: "user".to_owned(), content, ..ChatMessage::default() };
    }
    let Some(Value::Array(calls)) = extra.remove("tool_calls") else { return ChatMessage { role, content, name, extra } };
    let calls: Vec<String> = calls.iter().map(past_call).collect();
    let gap = if content.is_empty() { "" } else { "\n" };
    let content = format!("{content}{gap}{}{}{}{}", syntax.open, syntax.before, calls.join(syntax.between), syntax.after);
    ChatMessage { role, content, name, extra }
}

fn past_call(call: &Value) -> String {
    let function = &call["function"];
    call_text(function["name"].as_str().unwrap_or_default(), &function["arguments"].to_string())
}

fn call_text(name: &str, arguments: &str) -> String {
    format!("{}{name}{}{arguments}}}", CallSyntax::BEFORE_NAME, CallSyntax::BEFORE_ARGUMENTS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage { role: role.into(), content: content.into(), ..ChatMessage::default() }
    }

    #[test]
    fn a_conversation_with_tools_as_text() {
        let call = json!([{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]);
        let mut calling = message("assistant", "I add.");
        calling.extra.insert("tool_calls".into(), call);
        let tools = [json!({"type": "function", "function": {"name": "add"}})];
        let messages = vec![message("system", "Be brief."), message("user", "1+1?"), calling, message("tool", "2")];
        let spelled = spell(messages, &tools, CallSyntax::TAGS);
        assert_eq!(
            spelled[0].content,
            "Be brief.\n\nYou can call these functions, given as JSON:\n{\"name\":\"add\"}\nTo call one, write:\n<tool_call>\n\
             {\"name\": \"NAME\", \"arguments\": {…}}\n</tool_call>\nIts result comes between <tool_response> and </tool_response>."
        );
        assert_eq!(spelled[2].content, "I add.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\":1}}\n</tool_call>");
        assert!(spelled[2].extra.is_empty());
        assert_eq!(spelled[3], message("user", "<tool_response>\n2\n</tool_response>"));
        let without_system = spell(vec![message("user", "x")], &tools, CallSyntax::TAGS);
        assert_eq!((without_system.len(), without_system[0].role.as_str()), (2, "system"));
        assert_eq!(spell(vec![message("user", "x")], &[], CallSyntax::TAGS), [message("user", "x")]);
    }
}
