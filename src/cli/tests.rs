use super::*;

fn parse(arguments: &[&str]) -> Result<ArgMatches, clap::Error> {
    command().try_get_matches_from(std::iter::once("openelm-server").chain(arguments.iter().copied()))
}

#[test]
fn clap_finds_the_commands_consistent() {
    command().debug_assert();
}

#[test]
fn serve_takes_the_same_flags_with_and_without_its_name() {
    let flags = |matches: &ArgMatches| Flags::from_matches(matches);
    let without = parse(&["--port", "1", "--api-key", "a,b", "--no-enable-prefix-caching"]).expect("valid");
    let with = parse(&["serve", "--port", "1", "--api-key", "a", "--api-key", "b", "--no-enable-prefix-caching"]).expect("valid");
    let (_, with) = with.subcommand().expect("serve");
    assert_eq!(flags(&without), flags(with));
    assert_ne!(flags(&without), Flags::default());
}

#[test]
fn the_model_may_follow_serve() {
    let matches = parse(&["serve", "DIR", "--port", "1"]).expect("valid");
    let (_, matches) = matches.subcommand().expect("serve");
    assert_eq!(Flags::from_matches(matches).model.as_deref(), Some("DIR"));
}

#[test]
fn flags_before_a_subcommand_are_refused_rather_than_dropped() {
    let error = parse(&["--port", "1", "serve"]).expect_err("the flag would be lost");
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_cause_that_a_message_ends_with_is_not_said_twice() {
    let cause = || std::io::Error::other("no such file");
    let told = anyhow::Error::new(cause()).context("m.gguf: cannot be read: no such file");
    assert_eq!(chain(&told), "m.gguf: cannot be read: no such file");
    let untold = anyhow::Error::new(cause()).context("m.gguf cannot be read").context("no model");
    assert_eq!(chain(&untold), "no model: m.gguf cannot be read: no such file");
}
