// What the server's codes mean, in words for its operator. Other codes are shown as they are.

/** What a model does. */
const STATES = {
  ready: "ready",
  loading: "loading",
  cold: "not loaded",
  failed: "failed",
  down: "down",
};

/** What a request does at the moment. */
const STEPS = { queued: "waits for a slot", prompt: "reads the prompt", answer: "answers" };

const CIRCUITS = {
  closed: "takes requests",
  open: "gets no requests",
  half_open: "on trial",
};

/** What an engine of a cluster does at the moment. */
const ENGINES = {
  fetching: "fetches its model",
  loading: "loads",
  ready: "ready",
  restarting: "restarts",
  failed: "failed",
  leaving: "is leaving",
};

const MACHINES = { up: "up", draining: "draining", lost: "lost" };

/** Why a backend is trusted, or isn't. */
const REASONS = {
  success: "It has given whole answers since it was last in trouble.",
  first_token: "An answer began again after trouble. The next failure opens the circuit at once.",
  probe: "It answers probes again after trouble. The next failure opens the circuit at once.",
  cooldown: "It failed just now. It is used only if no other has room.",
  paused: "It asked for a pause. It is used only if no other has room.",
  silent: "Its requests get nothing at the moment. It is used only if no other has room.",
  backend_error: "It failed: no connection, a broken answer, or an error of its own.",
  backend_timeout: "It fell silent past its limit.",
  probe_failed: "It didn't answer its latest probe.",
  trial_due: "Its wait is over. The next request is its trial.",
  trial: "A request is its trial now.",
  leaving: "The cluster is about to end it: no new request is sent there.",
  draining: "You drain it: no new request is sent there, and those that run end normally.",
};

/** What went wrong with a request or a backend. */
const ERRORS = {
  backend_error: "The backend failed",
  backend_timeout: "The backend fell silent past its limit",
  model_loading: "The model wasn't loaded yet",
  overloaded: "No slot became free in time, or the server stopped",
  internal_error: "The server failed; its log says more",
};

const said = (words) => (code) => words[code] ?? code;

export const stateInWords = said(STATES);
export const stepInWords = said(STEPS);
export const engineInWords = said(ENGINES);
export const machineInWords = said(MACHINES);
export const circuitInWords = said(CIRCUITS);
export const reasonInWords = said(REASONS);
export const errorInWords = said(ERRORS);
