//! From the text of one value to its type. No function here knows where the text came from.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use hyper::Uri;
use percent_encoding::percent_decode_str;

use super::{Proxy, Secret};

/// Longest identifier, in bytes: identifiers travel in headers of every request.
const IDENTIFIER_BYTES_MAX: usize = 253;

/// Why a text is not a value of its type, and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Complaint {
    /// What is wrong.
    pub(crate) what: String,
    /// What to do about it.
    pub(crate) remedy: String,
}

/// A complaint as the error of a parse.
pub(super) fn complain<T>(what: impl Into<String>, remedy: impl Into<String>) -> Result<T, Complaint> {
    Err(Complaint { what: what.into(), remedy: remedy.into() })
}

/// An identifier that is safe in a header and in a table.
pub(super) fn identifier(text: &str) -> Result<String, Complaint> {
    if text.chars().any(char::is_control) {
        return complain("holds a control character", "write plain text on one line");
    }
    if text.len() > IDENTIFIER_BYTES_MAX {
        return complain(format!("is {} bytes long", text.len()), format!("use at most {IDENTIFIER_BYTES_MAX} bytes"));
    }
    Ok(text.to_owned())
}

/// An identifier that must not be empty.
pub(super) fn name(text: &str) -> Result<String, Complaint> {
    if text.is_empty() { complain("is empty", "give it a value") } else { identifier(text) }
}

/// A path that does not depend on the working directory.
pub(super) fn path(text: &str) -> Result<PathBuf, Complaint> {
    if !text.starts_with('/') || text.contains('\0') {
        return complain(format!("{text:?} is not an absolute path"), "write the path from / on");
    }
    Ok(PathBuf::from(text))
}

/// An absolute path or glob pattern of a file.
pub(super) fn pattern(text: &str) -> Result<String, Complaint> {
    path(text)?;
    if text.ends_with('/') {
        return complain(format!("{text:?} names a directory"), "name the live file, or end the pattern with /*.log");
    }
    match glob::Pattern::new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => complain(format!("{text:?} is not a glob pattern ({error})"), "check the brackets and stars"),
    }
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, Complaint> {
    text.parse().or_else(|_| complain(format!("{text:?} is neither true nor false"), "write true or false"))
}

/// A bearer token (RFC 6750 allows visible ASCII only). Complaints do not show it.
pub(crate) fn token(text: &str) -> Result<Secret, Complaint> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return complain("is empty or holds blanks or other characters no token has", "copy the token again");
    }
    Ok(Secret(text.to_owned()))
}

/// An address to listen on, or none.
pub(super) fn listen(text: &str) -> Result<Option<SocketAddr>, Complaint> {
    if text == "off" {
        return Ok(None);
    }
    match text.parse() {
        Ok(address) => Ok(Some(address)),
        Err(_) => complain(format!("{text:?} is not an address"), "write ADDRESS:PORT such as 0.0.0.0:9464, or off"),
    }
}

/// Where chunks go. Credentials in the URL are refused: they would end up in logs and tables.
pub(super) fn destination_url(text: &str) -> Result<Uri, Complaint> {
    let (plain, credentials) = split_credentials(text);
    if credentials.is_some() {
        return complain("the URL holds credentials", "remove them and use destination.token_file");
    }
    http_url(&plain, "write https://HOST[:PORT][/PATH]")
}

/// A proxy, its credentials taken out of the URL and decoded.
pub(super) fn proxy(text: &str) -> Result<Proxy, Complaint> {
    const REMEDY: &str = "write http://[USER:PASSWORD@]HOST:PORT, or https:// where the proxy speaks TLS";
    let (plain, credentials) = split_credentials(text);
    let url = http_url(&plain, REMEDY)?;
    if !matches!(url.path_and_query().map(|path| path.as_str()), None | Some("/")) {
        return complain("the proxy's URL has a path", REMEDY);
    }
    let credentials = match credentials {
        None => None,
        Some(text) => {
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            match (percent_decode_str(user).decode_utf8(), percent_decode_str(password).decode_utf8()) {
                (Ok(user), Ok(password)) => Some((user.into_owned(), Secret(password.into_owned()))),
                _ => return complain("the proxy's credentials are not UTF-8", "percent-encode them as UTF-8"),
            }
        }
    };
    Ok(Proxy { url, credentials })
}

/// Whether a URL's host is this machine, so that nothing sent there can be overheard on a network.
pub(crate) fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// An absolute http or https URL with a host. Complaints do not show it: it may be half a secret.
fn http_url(text: &str, remedy: &str) -> Result<Uri, Complaint> {
    let Ok(url) = text.parse::<Uri>() else { return complain("is not a URL", remedy) };
    let scheme_known = matches!(url.scheme_str(), Some("http" | "https"));
    let Some(authority) = url.authority().filter(|authority| scheme_known && !authority.host().is_empty()) else {
        return complain("is not an http or https URL with a host", remedy);
    };
    let port = authority.as_str().strip_prefix(authority.host()).unwrap_or_default();
    if !port.is_empty() && authority.port_u16().is_none_or(|port| port == 0) {
        return complain("has a port that is not a number from 1 to 65535", remedy);
    }
    Ok(url)
}

/// Takes `USER:PASSWORD` out of `SCHEME://USER:PASSWORD@HOST…`.
fn split_credentials(text: &str) -> (String, Option<&str>) {
    let Some((scheme, rest)) = text.split_once("://") else { return (text.to_owned(), None) };
    let authority_len = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, behind) = rest.split_at(authority_len);
    match authority.rsplit_once('@') {
        Some((credentials, host)) => (format!("{scheme}://{host}{behind}"), Some(credentials)),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Fails if a URL that cannot be sent to is taken, or a usable one is not.
    #[test]
    fn urls() {
        for good in ["https://host/", "http://127.0.0.1:8080/v1?x=y", "https://[::1]:8443", "https://host"] {
            assert!(destination_url(good).is_ok(), "{good}");
        }
        for bad in
            ["host", "ftp://host/", "https://", "https://:80/", "https://h:99999/", "https://h:/", "/x", "https://h h/"]
        {
            assert!(destination_url(bad).is_err(), "{bad}");
        }
    }

    // Fails if credentials stay in the URL, are not decoded, or show up in a complaint.
    #[test]
    fn proxy_credentials_are_split_off_and_hidden() {
        let proxy = proxy("http://us%40er:p%3Ass@proxy:3128").unwrap();
        assert_eq!(proxy.url, "http://proxy:3128/");
        assert_eq!(proxy.credentials, Some(("us@er".to_owned(), Secret("p:ss".to_owned()))));
        assert!(!format!("{proxy:?}").contains("p:ss"));
        for bad in ["http://u:sekrit@proxy:x", "http://u:sekrit@", "ftp://u:sekrit@proxy", "http://u:sekrit@h/path"] {
            let complaint = super::proxy(bad).unwrap_err();
            assert!(!format!("{complaint:?}").contains("sekrit"));
        }
        assert!(!format!("{:?}", destination_url("https://u:sekrit@host/").unwrap_err()).contains("sekrit"));
    }

    // Fails if another host is taken for this machine: the token would be sent to it in plain text.
    #[test]
    fn loopback_is_told_from_the_network() {
        let is = |text: &str| is_loopback(&text.parse().unwrap());
        assert!(is("http://localhost:80/") && is("http://127.9.9.9/") && is("http://[::1]:80/"));
        assert!(!is("http://localhost.example/") && !is("http://10.0.0.1/") && !is("http://[::2]/"));
    }

    // Fails if a token that would break a header is taken.
    #[test]
    fn tokens_are_one_visible_word() {
        assert_eq!(token("abc.DEF-1~+/="), Ok(Secret("abc.DEF-1~+/=".to_owned())));
        for bad in ["", "a b", "a\nb", "ä"] {
            assert!(token(bad).is_err());
        }
    }

    // Fails if a path that depends on the working directory, or a directory, is taken for a log.
    #[test]
    fn patterns_are_absolute_file_patterns() {
        assert!(pattern("/var/log/*/audit.log").is_ok());
        for bad in ["audit.log", "", "/var/log/", "/var/[", "/a\0b"] {
            assert!(pattern(bad).is_err(), "{bad:?}");
        }
    }
}
