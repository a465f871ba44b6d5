//! Request validation: headers that occur once, and bodies with known fields. No I/O.

use serde_json::Value;

use super::connection::ServerRequest;
use super::reply::ApiError;

/// Returns a header that occurs at most once.
pub(super) fn single_header<'a>(request: &'a ServerRequest, name: &str) -> Result<Option<&'a str>, ApiError> {
    request
        .header(name)
        .map_err(|message| ApiError::violation(400, message))
}

/// Parses a JSON body with the right content type and no other fields than these.
pub(super) fn json_body(
    request: &ServerRequest,
    fields: &[&str],
) -> Result<serde_json::Map<String, Value>, ApiError> {
    let media = single_header(request, "content-type")?.unwrap_or("");
    if !media
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .eq_ignore_ascii_case("application/json")
    {
        return Err(ApiError::violation(
            415,
            format!("Content-Type is {media:?}, not application/json"),
        ));
    }
    let value: Value = serde_json::from_slice(&request.body)
        .map_err(|error| ApiError::violation(400, format!("the body is not JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(ApiError::violation(400, "the body is not a JSON object"));
    };
    match object.keys().find(|name| !fields.contains(&name.as_str())) {
        Some(name) => Err(ApiError::violation(
            400,
            format!("the body has an unknown field {name:?}"),
        )),
        None => Ok(object),
    }
}
