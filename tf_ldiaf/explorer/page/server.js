"use strict";

// The answers of a server, see tf_ldiaf/explorer/server.py.
const backend = {
  canEncode: true,

  /** `asked`: nothing, a file, or the arguments of the question. */
  async ask(question, asked) {
    const request = asked === undefined ? {} : { method: "POST", body: asked instanceof Blob ? asked : JSON.stringify(asked) };
    let response;
    try {
      response = await fetch(`api/${question}`, request);
    } catch {
      throw new Error("The explorer does not answer any more. Start it again.");
    }
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  },
};
