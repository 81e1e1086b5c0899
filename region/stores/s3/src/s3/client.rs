//! The client: where the server is and who asks.

use std::fs;
use std::time::Duration;

use gb6_core_ports::StoreError;
use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::{ClientOptions, RetryConfig};

use crate::config::S3Config;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// Of the environment, what names who asks; where the server is, the URI alone says.
const CREDENTIALS: &[&str] = &[
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// How the server of `config` is asked, and by whom.
pub(super) fn builder(config: &S3Config) -> Result<AmazonS3Builder, StoreError> {
    // Attempts are ours: their number, their pauses and how long one may take.
    let once = RetryConfig {
        max_retries: 0,
        ..RetryConfig::default()
    };
    let options = ClientOptions::new()
        .with_allow_http(config.allow_http)
        .with_connect_timeout(CONNECT)
        .with_timeout_disabled();
    let mut builder = AmazonS3Builder::new()
        .with_client_options(options)
        .with_retry(once)
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_virtual_hosted_style_request(!config.path_style)
        // Of the two ways to delete, the one that all servers know.
        .with_disable_bulk_delete(true);
    if config.server_checksums {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(match config.path_style {
            true => endpoint.clone(),
            false => endpoint.replacen("://", &format!("://{}.", config.bucket), 1),
        });
    }
    match (&config.access_key, &config.secret_file) {
        (Some(key), Some(file)) => {
            let secret = fs::read_to_string(file).map_err(|error| StoreError::Io {
                operation: "read the secret in",
                path: file.display().to_string(),
                detail: error.to_string(),
            })?;
            if secret.trim().is_empty() {
                return Err(StoreError::Unavailable {
                    cause: format!("there is no secret in {}", file.display()),
                });
            }
            builder = builder
                .with_access_key_id(key)
                .with_secret_access_key(secret.trim());
        }
        _ => {
            for name in CREDENTIALS {
                if let (Ok(value), Ok(key)) =
                    (std::env::var(name), name.to_ascii_lowercase().parse())
                {
                    builder = builder.with_config(key, value);
                }
            }
        }
    }
    Ok(builder)
}
