//! A Security Token Service on 127.0.0.1 that answers `AssumeRoleWithWebIdentity`: it hands out the keys that it was
//! given, without a session token, which the gateway does not know, and refuses on demand.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result};
use aws_smithy_types::base64;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use url::form_urlencoded;

/// Reply of the service to all calls.
#[derive(Clone, Debug)]
pub(crate) enum StsReply {
    /// Keys that are valid for this time.
    Keys(SignedDuration),
    /// An error with this status, code and message.
    Error(u16, &'static str, &'static str),
}

/// A call, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct StsCall {
    pub(crate) role: String,
    pub(crate) session: String,
    pub(crate) token: String,
}

impl StsCall {
    /// Returns the claims of the token.
    pub(crate) fn claims(&self) -> Result<Value> {
        let claims = self.token.split('.').nth(1).context("not a JWT")?;
        // The alphabet of URLs, without padding.
        let mut claims = claims.replace('-', "+").replace('_', "/");
        claims.extend(std::iter::repeat_n('=', (4 - claims.len() % 4) % 4));
        Ok(serde_json::from_slice(&base64::decode(claims)?)?)
    }
}

#[derive(Debug)]
struct Shared {
    keys: (String, String),
    reply: Mutex<StsReply>,
    trusted: Mutex<Option<String>>,
    calls: Mutex<Vec<StsCall>>,
}

/// Running service; ends when dropped.
pub(crate) struct FakeSts {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl FakeSts {
    /// Starts a service that hands out this access key and secret key.
    pub(crate) async fn start(access_key: &str, secret_key: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            keys: (access_key.to_owned(), secret_key.to_owned()),
            reply: Mutex::new(StsReply::Keys(SignedDuration::from_hours(1))),
            trusted: Mutex::default(),
            calls: Mutex::default(),
        });
        let router = Router::new().route("/", post(answer)).with_state(shared.clone());
        let task = tokio::spawn(async move {
            // Ends with the task only.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            shared,
            task,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sets the reply to the calls from now on.
    pub(crate) fn reply(&self, reply: StsReply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Refuses tokens of other subjects from now on, as the trust policy of a role does.
    pub(crate) fn trust_only(&self, subject: &str) {
        *self.shared.trusted.lock().unwrap() = Some(subject.to_owned());
    }

    /// Returns the calls until now.
    pub(crate) fn calls(&self) -> Vec<StsCall> {
        self.shared.calls.lock().unwrap().clone()
    }
}

impl Drop for FakeSts {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, body: String) -> Response {
    let fields: BTreeMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    if field("Action") != "AssumeRoleWithWebIdentity" {
        return error(400, "InvalidAction", "only AssumeRoleWithWebIdentity");
    }
    let call = StsCall {
        role: field("RoleArn"),
        session: field("RoleSessionName"),
        token: field("WebIdentityToken"),
    };
    let subject = call
        .claims()
        .map(|claims| claims["sub"].clone())
        .unwrap_or_default();
    shared.calls.lock().unwrap().push(call);
    let trusted = shared.trusted.lock().unwrap().clone();
    if trusted.is_some_and(|trusted| subject != *trusted) {
        return error(
            403,
            "AccessDenied",
            "Not authorized to perform sts:AssumeRoleWithWebIdentity",
        );
    }
    let reply = shared.reply.lock().unwrap().clone();
    match reply {
        StsReply::Error(status, code, message) => error(status, code, message),
        StsReply::Keys(validity) => {
            let expiration = Timestamp::now() + validity;
            let (access, secret) = &shared.keys;
            format!(
                "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
                 <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{access}</AccessKeyId>\
                 <SecretAccessKey>{secret}</SecretAccessKey><SessionToken></SessionToken>\
                 <Expiration>{expiration:.0}</Expiration></Credentials>\
                 <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/r/s</Arn>\
                 <AssumedRoleId>AROAEXAMPLE:s</AssumedRoleId></AssumedRoleUser>\
                 </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
            .into_response()
        }
    }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = format!(
        "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
         <Code>{code}</Code><Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
    );
    (status, body).into_response()
}
