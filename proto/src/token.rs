//! Tokens: who somebody is, for a while, signed by the cluster's auth service.
//!
//! A token is a JSON Web Token (RFC 7519) in compact form, signed with Ed25519 ("EdDSA", RFC 8037):
//! `BASE64URL(header).BASE64URL(claims).BASE64URL(signature)`. What must hold: the header is compared with the only one that we
//! write, so that nobody can choose another algorithm; nothing of the claims is believed before the signature is checked; a
//! claim that is not known is refused, because it may be one that binds.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::ClusterId;
use crate::secret::Secret;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_LEN: usize = 4096;

/// The only header there is.
const HEADER: &str = r#"{"alg":"EdDSA","typ":"JWT"}"#;

/// What somebody may do.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// All that operators do, and all that `Rw` may.
    Admin,
    /// Mounts, reads and writes.
    Rw,
    /// Mounts and reads.
    Ro,
    /// Is a keeper.
    Keeper,
}

impl Role {
    /// Every role, in the order in which they are shown.
    pub const ALL: [Role; 4] = [Role::Admin, Role::Rw, Role::Ro, Role::Keeper];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Rw => "rw",
            Role::Ro => "ro",
            Role::Keeper => "keeper",
        }
    }

    fn bit(self) -> u8 {
        match self {
            Role::Admin => 1,
            Role::Rw => 2,
            Role::Ro => 4,
            Role::Keeper => 8,
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let found = Role::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("'{text}' is no role; choose of admin, rw, ro, keeper"))
    }
}

/// A set of roles.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Roles(u8);

impl Roles {
    /// Of bits as [`Roles::bits`] gives them. `None`: some bit is no role.
    pub fn from_bits(bits: u8) -> Option<Roles> {
        let known = Role::ALL.iter().fold(0, |all, role| all | role.bit());
        (bits & !known == 0).then_some(Roles(bits))
    }

    /// A bit for each role; part of what is stored.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Is this one among them?
    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }

    /// Is one of these among them?
    pub fn has_one_of(self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.has(*role))
    }

    /// Is none?
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both.
    pub fn and(self, other: Roles) -> Roles {
        Roles(self.0 & other.0)
    }

    /// With what each implies: an admin may what rw may, and rw what ro may.
    pub fn with_implied(self) -> Roles {
        let implied = |role| -> &[Role] {
            match role {
                Role::Admin => &[Role::Rw, Role::Ro],
                Role::Rw => &[Role::Ro],
                Role::Ro | Role::Keeper => &[],
            }
        };
        self.iter().chain(self.iter().flat_map(implied).copied()).collect()
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Roles {
        Roles(roles.into_iter().fold(0, |all, role| all | role.bit()))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Role::name).collect();
        f.write_str(&names.join(","))
    }
}

/// What a token says. Times are in seconds since 1970, by the master's clock.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// The cluster whose auth service made it, in hex.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// The user's name.
    #[serde(rename = "sub")]
    pub subject: String,
    /// The cluster that it is for, in hex.
    #[serde(rename = "aud")]
    pub audience: String,
    /// From then on it is worth nothing.
    #[serde(rename = "exp")]
    pub expires_s: i64,
    /// When it was made.
    #[serde(rename = "iat")]
    pub issued_s: i64,
    /// No two are alike.
    #[serde(rename = "jti")]
    pub id: String,
    /// What the user may do, at most.
    pub roles: Vec<Role>,
    /// The user's, at that time: it changes when all tokens of the user are revoked.
    #[serde(rename = "gen")]
    pub generation: u32,
}

/// Why a token is refused. Nothing of the token is in the words.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum TokenError {
    #[error("the token cannot be read; log in again")]
    Malformed,
    #[error("the token is not signed by this cluster's master; log in again")]
    BadSignature,
    #[error("the token was made by another cluster; log in at this one")]
    WrongIssuer,
    #[error("the token is for another cluster; log in at this one")]
    WrongAudience,
    #[error("the token expired {ago_s} s ago; log in again")]
    Expired { ago_s: i64 },
}

/// Makes tokens and checks them. Shows nothing of itself.
#[derive(Clone)]
pub struct TokenKey {
    signing: SigningKey,
    cluster: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

impl TokenKey {
    /// The key of `cluster`, derived from its master's secret: so it is stored nowhere, is in no dump, and a restored
    /// cluster has another.
    pub fn derive(secret: &[u8; 32], cluster: ClusterId) -> TokenKey {
        let mut mac = match Hmac::<Sha256>::new_from_slice(secret) {
            Ok(mac) => mac,
            Err(_) => unreachable!("HMAC takes a key of any length"),
        };
        mac.update(b"dfs token signing key");
        mac.update(&cluster.0);
        let seed: [u8; 32] = mac.finalize().into_bytes().into();
        TokenKey { signing: SigningKey::from_bytes(&seed), cluster: cluster.to_string() }
    }

    /// The cluster, as tokens name it.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Signs whatever it is given.
    pub fn sign(&self, claims: &Claims) -> Secret {
        // Strings, numbers and lists of them: nothing that JSON cannot say.
        let claims = serde_json::to_vec(claims).unwrap_or_default();
        let head = Base64UrlUnpadded::encode_string(HEADER.as_bytes());
        let mut token = format!("{head}.{}", Base64UrlUnpadded::encode_string(&claims));
        let signature = self.signing.sign(token.as_bytes());
        token.push('.');
        token.push_str(&Base64UrlUnpadded::encode_string(&signature.to_bytes()));
        Secret::new(token)
    }

    /// Checks signature, issuer, audience and expiry, in this order.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now_s: i64) -> Result<Claims, TokenError> {
        let claims = verify_signed(&self.signing.verifying_key(), token)?;
        if claims.issuer != self.cluster {
            return Err(TokenError::WrongIssuer);
        }
        if claims.audience != self.cluster {
            return Err(TokenError::WrongAudience);
        }
        if claims.expires_s <= now_s {
            return Err(TokenError::Expired { ago_s: now_s.saturating_sub(claims.expires_s) });
        }
        Ok(claims)
    }
}

fn verify_signed(key: &VerifyingKey, token: &str) -> Result<Claims, TokenError> {
    let (signed, head, claims, signature) = parts(token)?;
    if head != Base64UrlUnpadded::encode_string(HEADER.as_bytes()) {
        return Err(TokenError::Malformed);
    }
    let signature = decode(signature)?;
    let signature = Signature::from_slice(&signature).map_err(|_| TokenError::Malformed)?;
    key.verify_strict(signed.as_bytes(), &signature).map_err(|_| TokenError::BadSignature)?;
    serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)
}

/// What a token says of itself, unchecked: for its bearer, who wants to know when to renew it. Nobody else may believe it.
///
/// # Errors
/// `Malformed`.
pub fn unchecked_claims(token: &str) -> Result<Claims, TokenError> {
    let (_, _, claims, _) = parts(token)?;
    serde_json::from_slice(&decode(claims)?).map_err(|_| TokenError::Malformed)
}

/// What is signed, the header, the claims, the signature.
fn parts(token: &str) -> Result<(&str, &str, &str, &str), TokenError> {
    if token.len() > MAX_TOKEN_LEN {
        return Err(TokenError::Malformed);
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (head, claims) = signed.split_once('.').ok_or(TokenError::Malformed)?;
    Ok((signed, head, claims, signature))
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    Base64UrlUnpadded::decode_vec(part).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([5; 16]);

    fn key() -> TokenKey {
        TokenKey::derive(&[9; 32], CLUSTER)
    }

    fn claims() -> Claims {
        Claims {
            issuer: CLUSTER.to_string(),
            subject: "anna".to_owned(),
            audience: CLUSTER.to_string(),
            expires_s: 1_900,
            issued_s: 1_000,
            id: "7f".to_owned(),
            roles: vec![Role::Rw, Role::Keeper],
            generation: 3,
        }
    }

    fn verify(claims: &Claims, now_s: i64) -> Result<Claims, TokenError> {
        key().verify(key().sign(claims).expose(), now_s)
    }

    #[test]
    fn a_good_token_says_what_was_signed() {
        assert_eq!(verify(&claims(), 1_899), Ok(claims()));
        assert_eq!(unchecked_claims(key().sign(&claims()).expose()), Ok(claims()));
    }

    #[test]
    fn every_lie_has_its_error() {
        let with = |change: fn(&mut Claims)| {
            let mut claims = claims();
            change(&mut claims);
            verify(&claims, 1_500)
        };
        let other = ClusterId([6; 16]);
        assert_eq!(with(|c| c.issuer = "x".to_owned()), Err(TokenError::WrongIssuer));
        assert_eq!(with(|c| c.audience = "x".to_owned()), Err(TokenError::WrongAudience));
        assert_eq!(verify(&claims(), 1_900), Err(TokenError::Expired { ago_s: 0 }));
        assert_eq!(verify(&claims(), 1_907), Err(TokenError::Expired { ago_s: 7 }));
        for forger in [TokenKey::derive(&[8; 32], CLUSTER), TokenKey::derive(&[9; 32], other)] {
            let forged = forger.sign(&claims());
            assert_eq!(key().verify(forged.expose(), 1_500), Err(TokenError::BadSignature));
        }
    }

    #[test]
    fn an_altered_token_is_refused_wherever_it_is_altered() {
        let token = key().sign(&claims()).expose().to_owned();
        for at in 0..token.len() {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert!(key().verify(&altered, 1_500).is_err(), "at {at}");
        }
        for length in 0..token.len() {
            assert!(key().verify(&token[..length], 1_500).is_err(), "cut to {length}");
        }
    }

    fn signed(head: &str, claims: &str) -> String {
        let encode = |text: &str| Base64UrlUnpadded::encode_string(text.as_bytes());
        let token = format!("{}.{}", encode(head), encode(claims));
        let signature = key().signing.sign(token.as_bytes());
        format!("{token}.{}", Base64UrlUnpadded::encode_string(&signature.to_bytes()))
    }

    #[test]
    fn no_other_algorithm_and_no_claim_that_is_not_known() {
        let json = serde_json::to_string(&claims()).unwrap();
        assert!(key().verify(&signed(HEADER, &json), 1_500).is_ok());
        for head in [r#"{"alg":"none"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, ""] {
            assert_eq!(key().verify(&signed(head, &json), 1_500), Err(TokenError::Malformed), "{head}");
        }
        let bound = json.replace('{', r#"{"dir":5,"#);
        assert_eq!(key().verify(&signed(HEADER, &bound), 1_500), Err(TokenError::Malformed));
        let unsigned = signed(HEADER, &json);
        let unsigned = format!("{}.", unsigned.rsplit_once('.').unwrap().0);
        assert_eq!(key().verify(&unsigned, 1_500), Err(TokenError::Malformed));
    }

    #[test]
    fn roles_are_sets_that_read_back() {
        let roles: Roles = [Role::Keeper, Role::Admin].into_iter().collect();
        assert_eq!(roles.to_string(), "admin,keeper");
        assert_eq!(Roles::from_bits(roles.bits()), Some(roles));
        assert_eq!(Roles::from_bits(16), None);
        assert!(
            roles.has(Role::Admin) && !roles.has(Role::Rw) && roles.has_one_of(&[Role::Ro, Role::Keeper])
        );
        let implied = |role: Role| Roles::from_iter([role]).with_implied().to_string();
        assert_eq!(Role::ALL.map(implied), ["admin,rw,ro", "rw,ro", "ro", "keeper"]);
        for role in Role::ALL {
            assert_eq!(role.name().parse(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{}\"", role.name()));
        }
    }

    #[test]
    fn a_key_does_not_show_itself() {
        assert_eq!(format!("{:?}", key()), "TokenKey(..)");
    }
}
