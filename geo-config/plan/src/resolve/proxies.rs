//! The backends that an instance asks.

use gb6_core_model::snapshot::{OnFailure, Proxies, Proxy, ProxyKind};
use toml::Spanned;

use super::Resolver;
use super::address::is_request_url;
use crate::file::{InstanceFile, NamespaceFile};
use crate::proxy_file::{
    HEADER_NAME_BYTES_MAX, HEADER_VALUE_BYTES_MAX, HEADERS_MAX, HEADERS_OF_CARRIAGE, ProxyFile,
    TIMEOUT_DEFAULT, TIMEOUT_MAX, TIMEOUT_MIN,
};

impl Resolver<'_> {
    pub(super) fn proxies(&mut self, path: &str, instance: &InstanceFile) -> Proxies {
        let file = instance.proxies.as_ref().map(Spanned::get_ref);
        let connect = file.and_then(|f| f.connect.as_ref());
        let publish = file.and_then(|f| f.publish.as_ref());
        let path_of = |kind: ProxyKind| format!("{path}.proxies.{}", kind.name());
        let anonymous = instance.anonymous.as_ref();
        let anybody = anonymous.is_some_and(|a| a.get_ref().allow);
        if let Some(failure) = connect.and_then(|c| c.get_ref().on_failure.as_ref())
            && *failure.get_ref() == OnFailure::Allow
            && !anybody
        {
            self.wrong_with(
                failure,
                &format!("{}.on_failure", path_of(ProxyKind::Connect)),
                "who is let in without an answer is let in as a connection without a token, and this \
                 instance has none"
                    .into(),
                format!("set {path}.anonymous = {{ allow = true }}, or on_failure = \"refuse\""),
            );
        }
        if let Some(meta) = connect.and_then(|c| c.get_ref().include_meta.as_ref()) {
            self.wrong(
                meta,
                &format!("{}.include_meta", path_of(ProxyKind::Connect)),
                "a connection has no meta before this backend gives it some",
            );
        }
        if publish.is_none() {
            self.nobody_to_ask(path, instance);
        }
        let proxies = [(ProxyKind::Connect, connect), (ProxyKind::Publish, publish)];
        let [connect, publish] =
            proxies.map(|(kind, file)| file.map(|file| self.proxy(&path_of(kind), file.get_ref())));
        Proxies { connect, publish }
    }

    /// Namespaces whose publications nobody can be asked about.
    fn nobody_to_ask(&mut self, path: &str, instance: &InstanceFile) {
        let namespaces = instance.namespaces.iter();
        let named = namespaces.map(|(name, rules)| {
            let path = format!("{path}.namespaces.{}", name.get_ref());
            (path, rules.get_ref())
        });
        let defaults = instance.defaults.iter();
        let defaults = defaults.map(|rules| (format!("{path}.defaults"), rules.get_ref()));
        let all: Vec<(String, &NamespaceFile)> = named.chain(defaults).collect();
        for (rules_path, rules) in all {
            if let Some(on) = rules.publish_proxy.as_ref().filter(|on| *on.get_ref()) {
                self.wrong_with(
                    on,
                    &format!("{rules_path}.publish_proxy"),
                    "this instance has no publish proxy that could be asked".into(),
                    format!("add a table [{path}.proxies.publish]"),
                );
            }
        }
    }

    fn proxy(&mut self, path: &str, file: &ProxyFile) -> Proxy {
        let url = &file.url.0;
        if !is_request_url(url.get_ref()) {
            self.wrong_with(
                url,
                &format!("{path}.url"),
                "a backend is asked at an https or http URL without a user and a fragment".into(),
                "as in \"https://app.example.org/gb6/connect\"".into(),
            );
        }
        let timeout_ms = match &file.timeout {
            Some(timeout) => {
                let (path, ms) = (format!("{path}.timeout"), timeout.get_ref().0);
                self.within(timeout, &path, ms, TIMEOUT_MIN, TIMEOUT_MAX);
                ms
            }
            None => TIMEOUT_DEFAULT,
        };
        let names = file.headers.iter();
        let fixed = file.static_headers.keys();
        let named = names.map(|name| ("headers", name));
        let all = named.chain(fixed.map(|name| ("static_headers", name)));
        for (key, name) in all {
            self.header_name(&format!("{path}.{key}"), name);
        }
        let surplus = file.headers.get(HEADERS_MAX).into_iter();
        for name in surplus.chain(file.static_headers.keys().nth(HEADERS_MAX)) {
            let why = format!("{HEADERS_MAX} headers of a kind at most");
            self.wrong(name, &format!("{path}.headers"), why);
        }
        for (name, value) in &file.static_headers {
            let text = value.0.get_ref();
            let fits = text.len() <= HEADER_VALUE_BYTES_MAX
                && text.bytes().all(|b| matches!(b, b' '..=b'~'));
            if !fits {
                self.wrong(
                    name,
                    &format!("{path}.static_headers"),
                    format!(
                        "the value of a header is printable ASCII, at most {HEADER_VALUE_BYTES_MAX} bytes"
                    ),
                );
            }
        }
        let lower = |name: &Spanned<String>| name.get_ref().to_ascii_lowercase();
        Proxy {
            url: url.get_ref().clone(),
            timeout_ms: u32::try_from(timeout_ms).unwrap_or(u32::MAX),
            headers: file.headers.iter().map(lower).collect(),
            static_headers: file
                .static_headers
                .iter()
                .map(|(name, value)| (lower(name), value.0.get_ref().clone()))
                .collect(),
            binary_encoding: file.binary_encoding,
            include_meta: file.include_meta.as_ref().is_some_and(|m| *m.get_ref()),
            on_failure: file
                .on_failure
                .as_ref()
                .map_or(OnFailure::Refuse, |f| *f.get_ref()),
        }
    }

    fn header_name(&mut self, path: &str, name: &Spanned<String>) {
        let text = name.get_ref();
        // A token of RFC 9110 section 5.6.2.
        let token = (1..=HEADER_NAME_BYTES_MAX).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b));
        if !token {
            self.wrong(name, path, "this is no name of a header");
        } else if HEADERS_OF_CARRIAGE.contains(&text.to_ascii_lowercase().as_str()) {
            let why = format!("`{text}` is made anew for every request");
            self.wrong(name, path, why);
        }
    }
}
