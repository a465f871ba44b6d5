//! Admin API of a running simulator, for tests in another process. No I/O.
//!
//! | request | body | response |
//! |---|---|---|
//! | `GET /simulator/ledger` | | the ledger |
//! | `GET /simulator/sessions` | | all open sessions |
//! | `GET /simulator/presets` | | names and descriptions of the faults |
//! | `PUT /simulator/faults` | `["cut@2018-06-03x2", {"effect":…}]` replaces all faults | their number |
//! | `POST /simulator/sessions` | `{"user","space","count"}` opens sessions as a human user does | their ids |
//! | `POST /simulator/grow` | `{"date","events"}` adds late events | |
//! | `POST /simulator/age` | `{"seconds"}` moves the times of every session back | |

use jiff::civil::Date;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::connection::{ServerRequest, ServerResponse};
use super::fault::Fault;
use super::presets::presets;
use super::reply::json_response;
use super::service::SimulatedService;

/// Maximum number of sessions that one request opens.
const MAX_SESSIONS: usize = 1000;

#[derive(Deserialize)]
#[serde(untagged)]
enum FaultSpec {
    Preset(String),
    Fault(Box<Fault>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenSessionsRequest {
    user: String,
    space: String,
    count: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrowDayRequest {
    date: Date,
    events: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AgeSessionsRequest {
    seconds: i64,
}

/// Serves a request to the admin API.
pub(super) fn admin(service: &SimulatedService, request: &ServerRequest) -> ServerResponse {
    match execute(service, request) {
        Ok(value) => json_response(200, &value),
        Err(message) => json_response(400, &json!({"message": message})),
    }
}

fn execute(service: &SimulatedService, request: &ServerRequest) -> Result<Value, String> {
    match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/simulator/ledger") => Ok(json!(service.ledger())),
        ("GET", "/simulator/sessions") => Ok(json!(service.open_sessions())),
        ("GET", "/simulator/presets") => Ok(presets()
            .into_iter()
            .map(|(name, about)| json!({"name": name, "about": about}))
            .collect()),
        ("PUT", "/simulator/faults") => {
            let mut faults = Vec::new();
            for spec in body::<Vec<FaultSpec>>(request)? {
                match spec {
                    FaultSpec::Preset(text) => {
                        let preset = Fault::preset(&text).map_err(|error| error.to_string())?;
                        faults.extend(preset);
                    }
                    FaultSpec::Fault(fault) => faults.push(*fault),
                }
            }
            let count = faults.len();
            service.state().faults.set(faults);
            Ok(json!({"faults": count}))
        }
        ("POST", "/simulator/sessions") => {
            let OpenSessionsRequest { user, space, count } = body(request)?;
            Ok(json!(service.open_as(&user, &space, count.min(MAX_SESSIONS))))
        }
        ("POST", "/simulator/grow") => {
            let GrowDayRequest { date, events } = body(request)?;
            service.grow(date, events);
            Ok(json!({}))
        }
        ("POST", "/simulator/age") => {
            let AgeSessionsRequest { seconds } = body(request)?;
            service.age(seconds);
            Ok(json!({}))
        }
        (method, path) => Err(format!("unknown request {method} {path}")),
    }
}

fn body<T: DeserializeOwned>(request: &ServerRequest) -> Result<T, String> {
    serde_json::from_slice(&request.body)
        .map_err(|error| format!("invalid body for {}: {error}", request.path))
}
