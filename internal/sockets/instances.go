package sockets

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxInstances bounds the file of instances, in bytes.
const maxInstances = 64 << 20

// Instances reads the file in which a DEA of 2013 says what it runs, and
// whose sockets these are (original-2013, section 5): those of running instances
// and of staging tasks. A file that is not there names none.
//
// identify says whose lines they are: an instance's app, its number, and the
// source type "APP" or "STG".
func Instances(path string, identify func(app, instance, sourceType string) (envelope.Identity, error)) ([]Target, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && info.Size() > maxInstances {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxInstances)
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseInstances(data, identify)
}

// job is where a container and a job in it are.
type job struct {
	Container string      `json:"warden_container_path"`
	ID        json.Number `json:"warden_job_id"`
}

type instances struct {
	Instances []struct {
		job
		App   string      `json:"application_id"`
		Index json.Number `json:"instance_index"`
		State string      `json:"state"`
	} `json:"instances"`
	StagingTasks []struct {
		job
		Message struct {
			App string `json:"app_id"`
		} `json:"staging_message"`
	} `json:"staging_tasks"`
}

func parseInstances(data []byte, identify func(app, instance, sourceType string) (envelope.Identity, error)) ([]Target, error) {
	var file instances
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("the file of instances is not understood: %w", err)
	}
	var targets []Target
	add := func(j job, app, instance, sourceType string) {
		id, err := strconv.ParseUint(j.ID.String(), 10, 64)
		if app == "" || j.Container == "" || err != nil || id == 0 {
			return // it is being started
		}
		identity, err := identify(app, instance, sourceType)
		if err != nil {
			return
		}
		dir := filepath.Join(j.Container, "jobs", strconv.FormatUint(id, 10))
		targets = append(targets, Dir(dir, identity)...)
	}
	for _, i := range file.Instances {
		if i.State == "RUNNING" {
			add(i.job, i.App, i.Index.String(), "APP")
		}
	}
	for _, t := range file.StagingTasks {
		add(t.job, t.Message.App, "", "STG")
	}
	return targets, nil
}
