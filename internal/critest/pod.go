package critest

// Values of the messages named, in k8s.io/cri-api runtime/v1.
const (
	InPod       = 0 // NamespaceMode POD
	InContainer = 1 // and CONTAINER
	InNode      = 2 // and NODE

	Running = 1 // ContainerState
	Exited  = 2
)

// Sandbox is what is asked for a pod.
type Sandbox struct {
	Name    string
	Handler string // of the runtime
	Logs    string // directory of its containers' logs
	Network uint64 // InPod takes a CNI plugin, InNode none
	Parent  string // cgroup; empty: one of the pod's name
}

// Pod is a sandbox that runs.
type Pod struct {
	*Client
	ID     string
	config Message // PodSandboxConfig
}

// Run makes a sandbox and starts it.
func (c *Client) Run(s Sandbox) (*Pod, error) {
	if s.Parent == "" {
		s.Parent = "/kubepods-" + s.Name
	}
	security := Message{}.Msg(1, Message{}.Num(1, s.Network)) // LinuxSandboxSecurityContext.namespace_options
	config := Message{}.
		Msg(1, Message{}.Str(1, s.Name).Str(2, "uid-"+s.Name).Str(3, "default")). // metadata
		Str(3, s.Logs).                                                           // log_directory; no hostname in the host's network
		Msg(8, Message{}.Str(1, s.Parent).Msg(2, security))                       // linux
	r, err := c.Try("RunPodSandbox", Message{}.Msg(1, config).Str(2, s.Handler))
	if err != nil {
		return nil, err
	}
	return &Pod{c, r.Str(1), config}, nil
}

// Start creates and starts a container of the pod, in its PID namespace.
func (p *Pod) Start(name string, resources Message, command ...string) (id string) {
	p.t.Helper()
	return p.StartAs(name, Message{}.Msg(1, resources), command...)
}

// StartAs is Start with a LinuxContainerConfig.
func (p *Pod) StartAs(name string, linux Message, command ...string) (id string) {
	p.t.Helper()
	config := Message{}.Msg(1, Message{}.Str(1, name)).Msg(2, Message{}.Str(1, Image)).Str(3, command...).
		Str(11, name+".log").Msg(15, linux) // ContainerConfig
	id = p.Call("CreateContainer", Message{}.Str(1, p.ID).Msg(2, config).Msg(3, p.config)).Str(1)
	p.Call("StartContainer", Message{}.Str(1, id))
	return id
}

// Status returns a container's state and exit status.
func (p *Pod) Status(id string) (state, exit uint64) {
	p.t.Helper()
	s := p.Call("ContainerStatus", Message{}.Str(1, id)).Sub(1)
	return s.Num(3), s.Num(7)
}

// Exec runs a command in a container.
func (p *Pod) Exec(id string, command ...string) (out string, exit uint64) {
	p.t.Helper()
	r := p.Call("ExecSync", Message{}.Str(1, id).Str(2, command...).Num(3, 30))
	return r.Str(1), r.Num(3)
}

// Remove ends the pod, with the containers that are left in it.
func (p *Pod) Remove() {
	p.t.Helper()
	p.Call("StopPodSandbox", Message{}.Str(1, p.ID))
	p.Call("RemovePodSandbox", Message{}.Str(1, p.ID))
}
