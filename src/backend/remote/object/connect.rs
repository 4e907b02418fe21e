//! From a URL and the variables of the environment to a store.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::Objects;
use crate::backend::{BackendError, BackendErrorKind, StoreSettings, shown};

const CONNECT: Duration = Duration::from_secs(10);
/// Threads that drive connections; hashing and sealing happen on those of the callers.
const DRIVERS: usize = 2;

/// The store at `s3://BUCKET/PREFIX`, `gs://…` or `az://CONTAINER/PREFIX`. Nothing is asked yet.
pub fn connect(url: &Url, settings: &StoreSettings) -> Result<Objects, BackendError> {
    let StoreSettings { variables, patience, cache, cold_class, .. } = settings;
    let (patience, cache) = (*patience, *cache);
    let place = shown(url);
    let usage = |why: &'static str| BackendError::new(BackendErrorKind::Usage, why, place.clone());
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(usage("credentials and options belong in the environment, not in"));
    }
    let bucket = url.host_str().filter(|bucket| !bucket.is_empty() && url.port().is_none());
    let bucket = bucket.ok_or_else(|| usage("expected a bucket behind `://` in"))?;
    let prefix = Path::from_url_path(url.path()).map_err(|error| {
        usage("this is no prefix of objects:").caused_by(std::io::Error::other(error))
    })?;
    let built: Result<Box<dyn ObjectStore>, object_store::Error> = match url.scheme() {
        "s3" | "s3a" => {
            if http(variables, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])
                && !is_set(variables, "AWS_ALLOW_HTTP")
            {
                return Err(usage("the endpoint is not encrypted (AWS_ALLOW_HTTP=1 allows it):"));
            }
            s3(bucket, variables).build().map(|store| Box::new(store) as _)
        }
        "gs" => google(bucket, variables).build().map(|store| Box::new(store) as _),
        "az" | "azure" => azure(bucket, variables).build().map(|store| Box::new(store) as _),
        _ => return Err(usage("no kind of store is known that is written")),
    };
    let refused = |error: object_store::Error| {
        BackendError::new(BackendErrorKind::Credentials, "cannot open", place.clone())
            .caused_by(std::io::Error::other(error.to_string()))
    };
    let store = built.map_err(refused)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(DRIVERS)
        .thread_name("objects")
        .enable_all()
        .build()
        .map_err(|error| BackendError::io("cannot start threads for", place.clone(), error))?;
    let cold_class = cold_class.clone();
    let answered = AtomicBool::new(false);
    Ok(Objects { runtime, store, prefix, place, patience, cache, cold_class, answered })
}

fn s3(bucket: &str, variables: &[(String, String)]) -> AmazonS3Builder {
    let builder = AmazonS3Builder::new()
        .with_client_options(client())
        .with_retry(retries())
        .with_checksum_algorithm(Checksum::SHA256)
        .with_disable_bulk_delete(true)
        .with_bucket_name(bucket);
    set(variables, "AWS_", builder, AmazonS3Builder::with_config)
}

fn google(bucket: &str, variables: &[(String, String)]) -> GoogleCloudStorageBuilder {
    let builder = GoogleCloudStorageBuilder::new()
        .with_client_options(client())
        .with_retry(retries())
        .with_bucket_name(bucket);
    set(variables, "GOOGLE_", builder, GoogleCloudStorageBuilder::with_config)
}

fn azure(container: &str, variables: &[(String, String)]) -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::new()
        .with_client_options(client())
        .with_retry(retries())
        .with_container_name(container);
    set(variables, "AZURE_", builder, MicrosoftAzureBuilder::with_config)
}

/// Applies all variables of one store; those it does not know belong to other programs.
fn set<B, K: std::str::FromStr>(
    variables: &[(String, String)],
    start: &str,
    builder: B,
    with: impl Fn(B, K, String) -> B,
) -> B {
    let own = variables.iter().filter(|(name, _)| name.starts_with(start));
    own.fold(builder, |builder, (name, value)| match name.to_ascii_lowercase().parse() {
        Ok(key) => with(builder, key, value.clone()),
        Err(_) => builder,
    })
}

/// Time limits are those of [`Objects::ask`], which knows how much is moved.
fn client() -> ClientOptions {
    ClientOptions::new().with_timeout_disabled().with_connect_timeout(CONNECT)
}

/// One retry within an attempt, for pages of listings and for credentials; the rest is ours.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(20),
    }
}

fn is_set(variables: &[(String, String)], wanted: &str) -> bool {
    let no = ["", "0", "false", "off", "no"];
    variables.iter().any(|(name, value)| name == wanted && !no.contains(&value.as_str()))
}

fn http(variables: &[(String, String)], names: &[&str]) -> bool {
    variables.iter().any(|(name, value)| names.contains(&&**name) && value.starts_with("http://"))
}
