// Package trust decides whether an image may be used, by the names it goes by and the
// signatures that were found for it.
//
// Policies are files in the format of containers-policy.json(5), which CRI-O and Podman
// read too: accept, reject, or require a signature by a key, per registry, namespace,
// repository or reference. Signatures are cosign's, verified with public keys by
// github.com/sigstore/sigstore. What a policy asks for and this package cannot check
// (GPG, Fulcio, Rekor) makes the policy invalid: it is never taken for granted.
//
// Nothing here talks to a registry. Values are immutable and safe for concurrent use.
package trust
