//! Hints for arguments of other programs, and for spellings that users try first. No I/O.

use clap::error::{ContextKind, ContextValue, Error, ErrorKind};

/// Adds a hint to an error of the parser, if there is one for the argument. `command`: first argument of the process.
pub fn add_hint(error: &mut Error, command: &str) {
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::InvalidSubcommand => ContextKind::InvalidSubcommand,
        _ => return,
    };
    let Some(ContextValue::String(typed)) = error.get(kind) else {
        return;
    };
    if let Some(hint) = hint(command, typed) {
        for similar in [
            ContextKind::SuggestedArg,
            ContextKind::SuggestedSubcommand,
            ContextKind::TrailingArg,
        ] {
            error.remove(similar);
        }
        error.insert(
            ContextKind::Suggested,
            ContextValue::StyledStrs(vec![hint.into()]),
        );
    }
}

fn hint(command: &str, typed: &str) -> Option<String> {
    match (command, typed) {
        ("login" | "target" | "api" | "at", _) => Some(
            "`eventexport context set NAME --region REGION --space ID --api-key-file FILE` stores the service, the space and the \
             credentials; docs/tutorial.md translates the commands of the service"
                .to_owned(),
        ),
        ("run", "--dry-run" | "-n") => {
            Some("`eventexport plan` with the same arguments shows what a run would do".to_owned())
        }
        ("run" | "plan", file) if !file.starts_with('-') => Some(format!("a manifest is an option: `-f {file}`")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::plugin::command;
    use super::*;

    #[test]
    fn known_mistakes_get_a_hint_and_others_the_usual_error() {
        for (typed, expected) in [
            (&["login", "--sso"][..], "eventexport context set NAME"),
            (&["at", "session", "list"], "eventexport context set NAME"),
            (&["run", "-f", "audit.yaml", "--dry-run"], "`eventexport plan`"),
            (&["run", "audit.yaml"], "`-f audit.yaml`"),
            (&["plan", "audit.yaml"], "`-f audit.yaml`"),
            (&["sesion"], "'session'"),
        ] {
            let arguments = std::iter::once("eventexport").chain(typed.iter().copied());
            let mut error = command(false).try_get_matches_from(arguments).unwrap_err();
            add_hint(&mut error, typed[0]);
            let text = error.to_string();
            assert!(text.contains(expected), "{expected} is not in: {text}");
            assert_eq!(text.matches("tip:").count(), 1, "{text}");
        }
    }
}
