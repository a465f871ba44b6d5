//! Tests of the client against a scripted server on 127.0.0.1: one test for each point that the protocol leaves open.

mod downloads;
mod proxy;
mod requests;
mod scripted_server;
mod tls;
mod tokens;

use std::time::Duration;

use scripted_server::ScriptedServer;

use super::*;
use crate::egress::HostPolicy;

const SPACE: &str = "c1234567-6d55-4193-a9de-378620d6fab5";
const KEY: &str = "the-api-key-that-nobody-may-see";

fn config(server: &ScriptedServer) -> TrackerConfig {
    TrackerConfig {
        endpoint: server.url(),
        uaa: UaaSource::Endpoint(server.url()),
        credentials: Credentials::ApiKey(KEY.into()),
        ca_pem: None,
        traffic: crate::egress::Traffic::default(),
        hosts: HostPolicy::any(),
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(5),
            idle_read: Duration::from_millis(300),
        },
        retry: RetryConfig {
            base: Duration::from_millis(2),
            cap: Duration::from_millis(5),
            retry_after_cap: Duration::from_millis(50),
            ..RetryConfig::default()
        },
    }
}

fn tracker(server: &ScriptedServer) -> Tracker {
    Tracker::new(config(server), &TokenCache::new()).unwrap()
}

fn request() -> SessionRequest {
    let day = "2018-06-28".parse().unwrap();
    SessionRequest {
        start: day,
        end: day,
        hour: None,
        account: true,
    }
}
