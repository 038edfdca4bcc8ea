// Package specs reads what ginkgo reports about the specs of an upstream's suite, and the
// project's lists of specs and tests that turn out differently.
package specs
