//! Renders errors of the API server as one line for users. Pure.

use kube::runtime::watcher;

use crate::api::{MAX_REDACTED_CHARS, redact, redact_error};

/// Answer of the API server to an applied field that the definition of the resource does not have.
const UNKNOWN_FIELD: &str = "field not declared in schema";

/// Returns an error of the API server as one line.
pub(super) fn describe_error(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => describe_status(status),
        // The message of the client includes the cause.
        kube::Error::HyperError(error) => describe_no_response(error),
        kube::Error::Service(error) => describe_no_response(&**error),
        kube::Error::SerdeError(_)
        | kube::Error::ReadEvents(_)
        | kube::Error::LinesCodecMaxLineLengthExceeded => {
            "unexpected response from the API server (is there a proxy in front of it?)".to_owned()
        }
        other => format!(
            "cannot send a request to the API server: {}",
            redact_error(other, &[])
        ),
    }
}

/// Returns an error of a watch as one line.
pub(super) fn describe_watch_error(error: &watcher::Error) -> String {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => describe_error(error),
        watcher::Error::WatchError(status) => describe_status(status),
        watcher::Error::NoResourceVersion => {
            "the response of the API server has no resourceVersion".to_owned()
        }
    }
}

fn describe_status(status: &kube::core::Status) -> String {
    let message = status.message.trim();
    let code = status.code;
    if message.is_empty() || message.starts_with('<') {
        return format!("the API server, or a proxy in front of it, responded with status {code}");
    }
    // Proxies answer with pages.
    let quoted = redact(message, &[], MAX_REDACTED_CHARS);
    let remedy = if message.contains(UNKNOWN_FIELD) {
        "; the CustomResourceDefinition eventexports.eventexport.io of the cluster is older than this program: apply that of \
         its version (docs/install.md)"
    } else {
        ""
    };
    format!("the API server: {quoted} ({code}){remedy}")
}

fn describe_no_response(error: &(dyn std::error::Error + 'static)) -> String {
    format!("the API server did not answer: {}", redact_error(error, &[]))
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
        let older = api(
            "failed to create typed patch object: .status.manifest: field not declared in schema",
            500,
        );
        assert!(older.contains("is older than this program"), "{older}");
        let page = api("<html><head>…", 502);
        assert_eq!(
            page,
            "the API server, or a proxy in front of it, responded with status 502"
        );
        assert!(api(&"long ".repeat(1000), 500).chars().count() < MAX_REDACTED_CHARS + 40);
        let silent = describe_error(&kube::Error::Service("timed out after 5 s".into()));
        assert_eq!(silent, "the API server did not answer: timed out after 5 s");
    }
}
