// Package field names the fields of the CRI and records which of them tests use.
//
// A field of a request is named by its path, "RunPodSandboxRequest.config.hostname", for
// the same message means different things in different places. A field of an answer is
// named by its message, "ContainerStatus.user". Elements of repeated fields, values of maps
// and wrappers that only tell zero from nothing (Int64Value) have no part in a name.
package field
