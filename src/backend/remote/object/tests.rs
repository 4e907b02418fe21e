//! Against a server that is not ours.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::backend::{StoreSettings, conformance, open};

#[path = "../../../../tests/common/moto.rs"]
mod moto;

#[test]
fn a_real_s3_server_conforms() {
    let server = moto::Server::start();
    let number = AtomicUsize::new(0);
    let variables = server.variables();
    let settings = StoreSettings { variables, ..StoreSettings::default() };
    conformance::run(&|| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        open(&format!("s3://bucket/some/{number}"), &settings).unwrap()
    });
    let error = open("s3://other", &settings).unwrap().get("config").unwrap_err();
    assert_eq!(error.cause(), BackendErrorKind::NoBucket);
}

#[test]
fn nobody_there_is_found_out_within_the_time_given() {
    let text = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let variables = [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
        ("AWS_ALLOW_HTTP", "1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ];
    let variables = variables.map(text).to_vec();
    let settings =
        StoreSettings { variables, patience: Duration::from_secs(1), ..StoreSettings::default() };
    let error = open("s3://bucket", &settings).unwrap().get("config").unwrap_err();
    assert_eq!(error.cause(), BackendErrorKind::Unreachable);
}
