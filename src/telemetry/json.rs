//! JSON log lines: one flat object per line. The fields of the enclosing spans (`export`, `run`, `window`, `attempt`,
//! …) are merged with those of the event, so that one filter finds all lines of a window. With traces, `trace_id` and
//! `span_id` are added in W3C notation. Formats only; no I/O.

use std::fmt::{self, Debug};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::traces::span_ids;
use crate::api::sanitize_to;

/// Maximum length of one value in a log line, in characters.
pub(super) const MAX_FIELD_CHARS: usize = 4096;

/// Formatter of one JSON object per line.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Map::new();
        let spans = context.event_scope().into_iter().flat_map(Scope::from_root);
        for span in spans {
            // The field formatter is the one for JSON: the recorded fields are an object.
            let extensions = span.extensions();
            let text = extensions.get::<FormattedFields<N>>();
            let text = text.map_or("", |recorded| recorded.fields.as_str());
            if let Ok(Value::Object(span_fields)) = serde_json::from_str(text) {
                fields.extend(span_fields);
            }
        }
        if let Some(span) = context.lookup_current()
            && let Some((trace, span)) = span_ids(&span.id())
        {
            fields.insert("trace_id".to_owned(), trace.into());
            fields.insert("span_id".to_owned(), span.into());
        }
        event.record(&mut FieldVisitor(&mut fields));
        let message = fields.remove("message").unwrap_or_default();
        let meta = event.metadata();
        let head = [
            ("timestamp", Value::from(Timestamp::now().to_string())),
            ("level", Value::from(meta.level().as_str())),
            ("target", Value::from(meta.target())),
            ("message", message),
        ];
        let mut separator = "{";
        for (name, value) in head {
            write!(writer, "{separator}\"{name}\":{}", printable(value))?;
            separator = ",";
        }
        for (name, value) in fields {
            write!(writer, ",{}:{}", Value::from(name), printable(value))?;
        }
        writeln!(writer, "}}")
    }
}

/// Bounds a text, and escapes what JSON leaves to the terminal.
fn printable(value: Value) -> Value {
    match value {
        Value::String(text) => sanitize_to(&text, MAX_FIELD_CHARS).into(),
        other => other,
    }
}

/// Collects the fields of an event.
struct FieldVisitor<'a>(&'a mut Map<String, Value>);

impl FieldVisitor<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for FieldVisitor<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::format::JsonFields;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::{Layer as _, filter::filter_fn};

    use super::super::logs::{LineFields, is_safe_to_log};
    use crate::api::is_printable;

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_contains_the_fields_of_its_spans() {
        let written = SharedBuffer::default();
        let out = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_writer(move || out.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let attempt = tracing::field::Empty;
            let span = tracing::error_span!("window", export = "audit/june", window = %"2018-06-05", attempt);
            span.record("attempt", "01AB");
            let _in = span.enter();
            tracing::warn!(count = 3, window = "its own", "quoted \"text\"");
        });
        let written = written.0.lock().unwrap().clone();
        let line: Value = serde_json::from_slice(&written).unwrap();
        let text = String::from_utf8(written).unwrap();
        assert!(
            text.starts_with("{\"timestamp\":\"") && text.ends_with("}\n"),
            "{text}"
        );
        assert_eq!(line["message"], "quoted \"text\"");
        assert_eq!((&line["level"], &line["count"]), (&"WARN".into(), &3.into()));
        assert_eq!(
            (&line["export"], &line["attempt"]),
            (&"audit/june".into(), &"01AB".into())
        );
        assert_eq!(line["window"], "its own");
    }

    #[test]
    fn a_value_in_a_log_line_is_bounded_and_forges_no_other_line() {
        let foreign = format!(
            "a\u{1b}[2J\u{9b}31m\r\nforged line \u{202e}{}",
            "x".repeat(25_000)
        );
        for json in [false, true] {
            let written = SharedBuffer::default();
            let out = written.clone();
            let lines = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(move || out.clone());
            let lines = if json {
                lines
                    .fmt_fields(JsonFields::new())
                    .event_format(JsonLines)
                    .boxed()
            } else {
                lines.fmt_fields(LineFields).boxed()
            };
            let subscriber =
                tracing_subscriber::registry().with(lines.with_filter(filter_fn(is_safe_to_log)));
            tracing::subscriber::with_default(subscriber, || {
                let _in = tracing::error_span!("span", inherited = %foreign).entered();
                tracing::warn!(error = %foreign, quoted = foreign, "failed: {foreign}");
                tracing::error!(target: "rustls_platform_verifier::verification", "{foreign}");
                tracing::error!(target: "kube_client::client", "{foreign}");
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            let line = text.strip_suffix('\n').unwrap();
            assert!(line.chars().all(is_printable), "{line:.300}");
            assert!(line.len() < 5 * MAX_FIELD_CHARS, "{} bytes", line.len());
            assert!(
                line.contains("forged line") && line.contains("failed: a"),
                "{line:.300}"
            );
        }
    }
}
