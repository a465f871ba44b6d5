//! Client configuration for the API server: address, credentials, proxy. Reads kubeconfig files and the environment.

use std::error::Error;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use hyper_util::client::proxy::matcher::Matcher;
use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::secret_file;
use crate::api::find_cause;

/// Loads the configuration from `--kubeconfig` and `--context`, else from `KUBECONFIG`, `~/.kube/config`, or the pod's
/// service account.
pub(super) async fn kube_config(file: Option<&Path>, context: Option<&str>) -> Result<Config> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    if file.is_none() {
        for file in default_files() {
            warn_if_exposed(&file);
        }
    }
    let mut config = match (file, context) {
        (Some(file), _) => {
            warn_if_exposed(file);
            let context = || format!("--kubeconfig {}", file.display());
            let kubeconfig = Kubeconfig::read_from(file)
                .map_err(without_contents)
                .with_context(context)?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(without_contents)
                .with_context(context)?
        }
        (None, Some(_)) => Config::from_kubeconfig(&options)
            .await
            .map_err(without_contents)?,
        (None, None) => Config::infer().await.map_err(without_contents)?,
    };
    let environment = ["HTTPS_PROXY", "https_proxy"].map(|name| std::env::var(name).unwrap_or_default());
    apply_no_proxy(&mut config, &environment, &Matcher::from_env());
    Ok(config)
}

fn warn_if_exposed(file: &Path) {
    if let Ok(metadata) = file.metadata() {
        secret_file::warn_if_exposed(file, &metadata);
    }
}

/// Returns the files that are read without `--kubeconfig`, which need not exist.
fn default_files() -> Vec<PathBuf> {
    match std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()) {
        Some(list) => std::env::split_paths(&list).collect(),
        None => std::env::home_dir()
            .map(|home| home.join(".kube/config"))
            .into_iter()
            .collect(),
    }
}

/// Replaces the text of a parser, which quotes the file and with it tokens and keys.
fn without_contents<E: Error + Send + Sync + 'static>(error: E) -> anyhow::Error {
    match find_cause::<KubeconfigError>(&error) {
        Some(KubeconfigError::Parse(cause)) => match cause.location() {
            Some(at) => anyhow!(
                "line {}, column {}: not a valid kubeconfig",
                at.line(),
                at.column()
            ),
            None => anyhow!("not a valid kubeconfig"),
        },
        Some(KubeconfigError::ParseCertificates(_)) => {
            anyhow!("the certificate authority of the kubeconfig is not PEM")
        }
        // The text has the cause already.
        _ => anyhow!("{error}"),
    }
}

/// Removes a proxy from the environment if `NO_PROXY` exempts the API server: the client compares `NO_PROXY` with the
/// host of the proxy instead. Keeps a proxy from the kubeconfig.
fn apply_no_proxy(config: &mut Config, environment: &[String], proxies: &Matcher) {
    let from_environment = config.proxy_url.as_ref().is_some_and(|proxy| {
        let mut proxies = environment.iter().map(|value| value.parse::<http::Uri>());
        proxies.any(|value| value.is_ok_and(|value| value == *proxy))
    });
    if from_environment && proxies.intercept(&config.cluster_url).is_none() {
        config.proxy_url = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreadable_kubeconfig_is_not_quoted() {
        for text in [
            "users:\n- name: a\n  user: {token: hunter2\n",
            "users:\n- name: a\n  user: {token: [hunter2]}\n",
            "users:\n- name: a\n  user: {token: *hunter2}\n",
        ] {
            let error = Kubeconfig::from_yaml(text).map_err(without_contents).unwrap_err();
            let error = format!("{error:#}");
            assert!(!error.contains("hunter2"), "{error}");
            assert!(error.contains("line "), "{error}");
        }
    }

    #[test]
    fn no_proxy_exempts_the_api_server_from_the_environment_proxy_only() {
        let env_proxy = "http://proxy.example:3128";
        let environment = [env_proxy.to_owned(), String::new()];
        for (proxy, exempt, left) in [
            (Some(env_proxy), "10.0.0.0/8", None),
            (Some(env_proxy), "192.0.2.0/24", Some(env_proxy)),
            (Some(env_proxy), "proxy.example", Some(env_proxy)),
            (
                Some("http://other.example:1"),
                "10.0.0.0/8",
                Some("http://other.example:1"),
            ),
            (None, "10.0.0.0/8", None),
        ] {
            let mut config = Config::new("https://10.0.0.1:6443".parse().unwrap());
            config.proxy_url = proxy.map(|text| text.parse().unwrap());
            let proxies = Matcher::builder().https(env_proxy).no(exempt).build();
            apply_no_proxy(&mut config, &environment, &proxies);
            let expected = left.map(|text| text.parse::<http::Uri>().unwrap());
            assert_eq!(config.proxy_url, expected, "{proxy:?} {exempt}");
        }
    }
}
