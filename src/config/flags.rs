//! The flags of the table, for clap, and what was typed of them.

use super::keys::{KEYS, Key, Kind};
use super::layers::{Layers, Origin, Setting};
use clap::{Arg, ArgAction, ArgMatches};
use std::path::PathBuf;

const CONFIG: &str = "config";
const CHECK_CONFIG: &str = "check-config";
const MODEL_POSITION: &str = "MODEL";

/// What was typed, as text; nothing is checked yet but that the flags exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--check-config`: print the resolved configuration and exit.
    pub check_config: bool,
    /// The model as an argument without a flag.
    pub model: Option<String>,
    /// The other flags: setting and texts.
    pub(super) settings: Vec<(&'static Key, Vec<String>)>,
}

/// Every flag of a command that takes the configuration.
pub fn flags() -> Vec<Arg> {
    let file = Arg::new(CONFIG).long(CONFIG).value_name("FILE").value_parser(clap::value_parser!(PathBuf));
    let check = Arg::new(CHECK_CONFIG).long(CHECK_CONFIG).action(ArgAction::SetTrue);
    let mut all = vec![
        file.help("TOML file with settings, keys called as the flags [env: OPENELM_CONFIG]"),
        check.help("Print the configuration as it was resolved and exit"),
    ];
    all.extend(KEYS.iter().flat_map(arguments_of));
    all
}

/// The flag of one setting; for a switch also the one that turns it off.
fn arguments_of(key: &'static Key) -> Vec<Arg> {
    let default = if key.default.is_empty() { String::new() } else { format!("[default: {}] ", key.default) };
    let help = format!("{} {default}[env: {}]", key.help, key.variable());
    let arg = Arg::new(key.name).long(key.name).help(help).help_heading(key.group);
    match key.kind {
        Kind::One(value) => vec![arg.value_name(value).allow_negative_numbers(true)],
        Kind::Many(value) | Kind::Secrets(value) => vec![arg.value_name(value).action(ArgAction::Append)],
        Kind::Switch(off) => {
            let no = Arg::new(off).long(off).action(ArgAction::SetTrue).help_heading(key.group).hide(key.default == "false");
            let no = no.help(format!("Turn off --{}", key.name)).overrides_with(key.name);
            vec![arg.action(ArgAction::SetTrue).overrides_with(off), no]
        }
    }
}

impl Flags {
    /// The argument that names the model without a flag.
    pub fn model_argument() -> Arg {
        Arg::new(MODEL_POSITION).value_name(MODEL_POSITION).help("Directory of a checkpoint; the same as --model")
    }

    /// What `matches` holds of [`flags`] and, where the command has it, of [`Self::model_argument`].
    pub fn from_matches(matches: &ArgMatches) -> Self {
        let model = matches.try_get_one::<String>(MODEL_POSITION).ok().flatten().cloned();
        let settings = KEYS.iter().filter_map(|key| typed(key, matches).map(|values| (key, values))).collect();
        Self { config: matches.get_one::<PathBuf>(CONFIG).cloned(), check_config: matches.get_flag(CHECK_CONFIG), model, settings }
    }

    /// Adds what was typed to `layers`.
    pub(super) fn read(&self, layers: &mut Layers) {
        for (key, values) in &self.settings {
            layers.set(key, Setting { values: values.clone(), origin: Origin::Flag(format!("--{}", key.name)) });
        }
        let Some(model) = &self.model else { return };
        let key = &super::keys::MODEL;
        let origin = Origin::Flag(MODEL_POSITION.to_owned());
        match self.settings.iter().find(|(other, values)| *other == key && values.as_slice() != [model.clone()]) {
            Some((_, values)) => layers.mistake(origin, Some(model.clone()), format!("--model names another one: {:?}", values.join(","))),
            None => layers.set(key, Setting { values: vec![model.clone()], origin }),
        }
    }
}

/// The texts of one setting, if it was typed.
fn typed(key: &'static Key, matches: &ArgMatches) -> Option<Vec<String>> {
    if let Kind::Switch(off) = key.kind {
        let on = matches.get_flag(key.name);
        return (on || matches.get_flag(off)).then(|| vec![on.to_string()]);
    }
    let values = matches.get_many::<String>(key.name)?;
    Some(values.flat_map(|text| Setting::split(key, text)).collect())
}
