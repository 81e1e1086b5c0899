// What the tests proved, written down for the conformance table (tests/conformance/README.md).

package sdk

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

type result struct {
	Feature string `json:"feature"`
	On      string `json:"on"`
	Test    string `json:"test"`
	Passed  bool   `json:"passed"`
}

var (
	resultsLock sync.Mutex
	results     = []result{}
)

// Notes, when the test ends, whether it showed these features of tests/conformance/features.json.
func proves(t *testing.T, e encoding, features ...string) {
	t.Helper()
	t.Cleanup(func() {
		resultsLock.Lock()
		defer resultsLock.Unlock()
		for _, feature := range features {
			on := "centrifuge-go/websocket/" + e.name
			results = append(results, result{feature, on, t.Name(), !t.Failed()})
		}
	})
}

func TestMain(m *testing.M) {
	status := m.Run()
	folder := filepath.Join(target(), "conformance")
	text, err := json.MarshalIndent(results, "", " ")
	if err == nil {
		err = os.MkdirAll(folder, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "go-sdk.json"), append(text, '\n'), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the results can not be written:", err)
		status = 1
	}
	os.Exit(status)
}
