//! What the API server said, or that it said nothing, as one line for a person. Pure.

use kube::runtime::watcher;

/// The longest that is quoted, in characters: gateways answer with pages.
const MAX_QUOTED_CHARS: usize = 300;

/// An error of the API server as one line.
pub(super) fn describe_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => describe_status(status),
        // The client's own words go down to the cause.
        kube::Error::HyperError(error) => describe_no_response(error),
        kube::Error::Service(error) => describe_no_response(&**error),
        kube::Error::SerdeError(_)
        | kube::Error::ReadEvents(_)
        | kube::Error::LinesCodecMaxLineLengthExceeded => {
            "the API server answered what is no answer; is there a gateway before it?".to_owned()
        }
        other => format!("the API server cannot be asked: {other}"),
    }
}

/// The same of an error of a watch.
pub(super) fn describe_watch_error(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe_error(error),
        watcher::Error::WatchError(status) => describe_status(status),
        watcher::Error::NoResourceVersion => "the API server answered without a version".to_owned(),
    }
}

fn describe_status(status: &kube::core::Status) -> String {
    let message = status.message.trim();
    let code = status.code;
    if message.is_empty() || message.starts_with('<') {
        return format!("the API server, or a gateway before it, answered with {code}");
    }
    let words: String = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let quoted: String = words.chars().take(MAX_QUOTED_CHARS).collect();
    format!("the API server: {quoted} ({code})")
}

fn describe_no_response(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    words.dedup();
    format!("the API server did not answer: {}", words.join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_messages_are_quoted_and_html_pages_are_not() {
        let api = |message: &str, code| {
            describe_error(&kube::Error::Api(
                kube::core::Status::failure(message, "Reason")
                    .with_code(code)
                    .boxed(),
            ))
        };
        assert_eq!(api("it is gone", 410), "the API server: it is gone (410)");
        let page = api("<html><head>…", 502);
        assert_eq!(page, "the API server, or a gateway before it, answered with 502");
        assert!(api(&"long ".repeat(1000), 500).chars().count() < MAX_QUOTED_CHARS + 40);
        let silent = describe_error(&kube::Error::Service("no answer within 5 s".into()));
        assert_eq!(silent, "the API server did not answer: no answer within 5 s");
    }
}
