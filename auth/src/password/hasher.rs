//! Argon2id in memory that is used again: a hash neither allocates 19 MiB nor has the operating system clear
//! them, and a thread of low priority does not change the address space, whose lock the whole process shares
//! (docs/decisions/0016-sign-in-floods.md).

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::{
        Result as Hashed, generate_salt,
        phc::{Output, ParamsString, Salt},
    },
};

/// 19 MiB, two passes, one lane: OWASP's minimum for argon2id.
pub(super) const PARAMS: Params = match Params::new(19 * 1024, 2, 1, None) {
    Ok(params) => params,
    Err(_) => panic!("these parameters are within argon2's limits"),
};

/// Hasher of one thread.
#[derive(Debug, Default)]
pub(super) struct Hasher {
    memory: Vec<Block>,
}

impl Hasher {
    /// Hashes a password with a new random salt. Returns a PHC string.
    pub(super) fn hash(&mut self, password: &[u8]) -> Hashed<String> {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS);
        let salt = Salt::new(&generate_salt())?;
        let output = self.output(&argon2, password, &salt, Params::DEFAULT_OUTPUT_LEN)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(&PARAMS)?,
            salt: Some(salt),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    /// Returns true if `hash`, a PHC string with any parameters of argon2, is a hash of the password.
    pub(super) fn verify(&mut self, password: &[u8], hash: &str) -> Hashed<bool> {
        let hash = PasswordHash::new(hash)?;
        let (Some(salt), Some(expected)) = (&hash.salt, &hash.hash) else { return Ok(false) };
        let algorithm = Algorithm::try_from(hash.algorithm.as_str())?;
        let version = hash.version.map(Version::try_from).transpose()?.unwrap_or_default();
        let argon2 = Argon2::new(algorithm, version, Params::try_from(&hash)?);
        // The comparison takes constant time.
        Ok(self.output(&argon2, password, salt, expected.len())? == *expected)
    }

    /// Returns the memory to the operating system.
    pub(super) fn release(&mut self) {
        self.memory = Vec::new();
    }

    fn output(&mut self, argon2: &Argon2<'_>, password: &[u8], salt: &Salt, length: usize) -> Hashed<Output> {
        let blocks = argon2.params().block_count();
        if self.memory.len() < blocks {
            self.memory.resize(blocks, Block::new());
        }
        let mut buffer = [0; Output::MAX_LENGTH];
        let output = buffer.get_mut(..length).unwrap_or_default();
        argon2.hash_password_into_with_memory(password, salt, output, &mut self.memory)?;
        Ok(Output::new(output)?)
    }
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher, PasswordVerifier};

    use super::*;

    #[test]
    fn hashes_are_those_of_argon2_whatever_the_memory_held_before() {
        let mut hasher = Hasher::default();
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, PARAMS);
        for password in [b"correct horse".as_slice(), b"battery staple", b""] {
            let ours = hasher.hash(password).unwrap();
            assert!(ours.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{ours}");
            other.verify_password(password, &PasswordHash::new(&ours).unwrap()).unwrap();
            let theirs = other.hash_password(password).unwrap().to_string();
            assert!(hasher.verify(password, &theirs).unwrap());
            assert!(!hasher.verify(b"wrong horse", &theirs).unwrap());
            assert_ne!(hasher.hash(password).unwrap(), ours, "every hash has its own salt");
        }
        hasher.release();
        assert!(hasher.verify(b"correct horse", &hasher_of_another_cost()).unwrap());
        assert!(hasher.verify(b"correct horse", "$argon2id$damaged").is_err());
    }

    /// Returns a hash with other parameters, from before or after a change of them.
    fn hasher_of_another_cost() -> String {
        let params = Params::new(20 * 1024, 1, 1, None).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password(b"correct horse").unwrap().to_string()
    }
}
