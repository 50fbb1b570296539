package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// errLate is a request that came behind a later one.
var errLate = errors.New("share: a later request was here before")

// ServeHTTP takes what members post, and shows Stats to who gets.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.Method {
	case http.MethodGet, http.MethodHead:
		writeJSON(w, r.Stats())
		return
	case http.MethodPost:
	default:
		w.Header().Set("Allow", "GET, HEAD, POST")
		http.Error(w, "members post here", http.StatusMethodNotAllowed)
		return
	}
	var q request
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, MaxRequest)).Decode(&q); err != nil {
		status := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			status = http.StatusRequestEntityTooLarge
		}
		http.Error(w, "share: no request of a member: "+err.Error(), status)
		return
	}
	if err := q.check(); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	switch a, err := r.take(&q); {
	case err == nil:
		writeJSON(w, a)
	case err == errLate:
		http.Error(w, err.Error(), http.StatusConflict)
	default:
		http.Error(w, err.Error(), http.StatusInsufficientStorage)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// check refuses names that are none.
func (q *request) check() error {
	for what, name := range map[string]string{"group": q.Group, "member": q.Member} {
		if name == "" || len(name) > MaxName {
			return fmt.Errorf("share: the name of the %s has to have 1 to %d bytes", what, MaxName)
		}
	}
	if len(q.Name) > MaxName {
		return fmt.Errorf("share: the member's name has more than %d bytes", MaxName)
	}
	for _, list := range [][]string{q.Keep, q.Want, q.Drop, q.Release} {
		for _, key := range list {
			if key == "" || len(key) > MaxName {
				return fmt.Errorf("share: the name of a piece has to have 1 to %d bytes", MaxName)
			}
		}
	}
	for _, note := range q.Notes {
		if len(note) > maxNote {
			return fmt.Errorf("share: a note has more than %d bytes", maxNote)
		}
	}
	return nil
}
