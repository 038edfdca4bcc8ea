package tools

// EndToEnd is the suite that Kubernetes tests clusters with.
func EndToEnd() Tool {
	t := Kubernetes("test/e2e")
	// Ginkgo knows a compiled suite by this ending.
	t.Name, t.Test = "e2e.test", true
	return t
}

// Ginkgo runs a compiled suite in several processes at once. Its version is the one that
// the suite is built with.
func Ginkgo() Tool {
	return Tool{
		Name: "ginkgo", Module: "github.com/onsi/ginkgo/v2@v2.32.0",
		Sum: "h1:Hw7s2pVrQo/8Yz5N77qdnpHaoc+c6cC9WIV1Jce+J6E=", Package: "./ginkgo",
	}
}
