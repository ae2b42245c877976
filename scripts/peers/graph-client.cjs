// graph-client.cjs MODULES BASE TOKEN USER: drives a Graph service with Microsoft's own client for JavaScript.
//
// MODULES is the folder node_modules that holds @microsoft/microsoft-graph-client, BASE the service without its version. USER's Inbox must hold
// 25 messages, the oldest with the subject "number 0". Prints one JSON object that tells what the client saw; a failure is an exit code of 1.
"use strict";
const [modules, base, token, user] = process.argv.slice(2);
const graph = require(`${modules}/@microsoft/microsoft-graph-client`);

// the client's own authentication handler sends no token without TLS, so the token is a header of every request
const retry = new graph.RetryHandler(new graph.RetryHandlerOptions(1, 3));
retry.setNext(new graph.HTTPMessageHandler());
// and it takes a link of an answer for a path unless it begins with https:
const links = {
  execute(context) {
    const at = typeof context.request === "string" ? context.request.lastIndexOf("http:/") : 0;
    if (at > 0) context.request = context.request.slice(at).replace(/^http:\/+/, "http://");
    return retry.execute(context);
  },
};
const client = graph.Client.initWithMiddleware({
  middleware: links,
  baseUrl: `${base}/`,
  defaultVersion: "v1.0",
  fetchOptions: { headers: { Authorization: `Bearer ${token}`, Prefer: 'IdType="ImmutableId"' } },
});
const api = (path) => client.api(`/users/${user}${path}`);

async function all(page) {
  const found = [];
  const iterator = new graph.PageIterator(client, page, (entry) => found.push(entry) > 0);
  await iterator.iterate();
  return { found, delta: iterator.getDeltaLink() };
}

async function main() {
  const saw = {};
  saw.folders = (await api("/mailFolders").get()).value.map((f) => f.displayName);
  const listed = await all(await api("/mailFolders/inbox/messages").orderby("receivedDateTime asc").top(7).get());
  saw.listed = listed.found.length;
  saw.oldest = listed.found[0].subject;
  const id = listed.found[0].id;
  const one = await api(`/messages/${id}`).select("subject,internetMessageHeaders").get();
  saw.headers = one.internetMessageHeaders.map((h) => h.name);
  saw.mime = await api(`/messages/${id}/$value`).responseType(graph.ResponseType.TEXT).get();
  saw.read = (await api(`/messages/${id}`).patch({ isRead: true })).isRead;

  const first = await all(await api("/mailFolders/inbox/messages/delta").select("subject").get());
  saw.delta = first.found.length;
  saw.moved = (await api(`/messages/${id}/move`).post({ DestinationId: "archive" })).parentFolderId;
  const second = await all(await client.api(first.delta).get());
  saw.removed = second.found.map((m) => [m.id === id, m["@removed"] && m["@removed"].reason]);

  const batch = new graph.BatchRequestContent([
    { id: "1", request: new Request(`${base}/users/${user}/mailFolders/inbox?$select=displayName`, { method: "GET" }) },
    { id: "2", request: new Request(`${base}/users/${user}/messages/none`, { method: "GET" }) },
  ]);
  const answers = new graph.BatchResponseContent(await client.api("/$batch").post(await batch.getContent()));
  saw.batch = [answers.getResponseById("1").status, answers.getResponseById("2").status];

  await api("/sendMail").post({
    message: {
      subject: "from JavaScript",
      body: { contentType: "Text", content: "hello" },
      toRecipients: [{ emailAddress: { address: "zoe@example.com" } }],
    },
    saveToSentItems: true,
  });
  const sent = await api("/mailFolders/sentitems/messages").select("subject").get();
  saw.sent = sent.value.map((m) => m.subject);

  const draft = await api("/messages").post({
    subject: "large",
    body: { contentType: "Text", content: "see attached" },
    toRecipients: [{ emailAddress: { address: "zoe@example.com" } }],
  });
  saw.draft = draft.isDraft;
  const content = new Uint8Array(5 * 1024 * 1024).map((_, n) => n % 251);
  const session = await graph.LargeFileUploadTask.createUploadSession(
    client,
    `/users/${user}/messages/${draft.id}/attachments/createUploadSession`,
    { AttachmentItem: { attachmentType: "file", name: "large.bin", size: content.length } },
  );
  const pieces = [];
  // the URL is the authorization: this client has no token
  const plain = new graph.HTTPMessageHandler();
  const direct = {
    execute(context) {
      context.request = session.url;
      return plain.execute(context);
    },
  };
  const bare = graph.Client.initWithMiddleware({ middleware: direct, baseUrl: `${base}/` });
  const task = new graph.LargeFileUploadTask(
    bare,
    new graph.FileUpload(content, "large.bin", content.length),
    session,
    { rangeSize: 4 * 320 * 1024, uploadEventHandlers: { progress: (range) => pieces.push(range.minValue) } },
  );
  await task.upload();
  saw.pieces = pieces.length;
  await api(`/messages/${draft.id}/send`).post({});

  const rule = await api("/mailFolders/inbox/messageRules").post({
    displayName: "rule",
    sequence: 1,
    isEnabled: true,
    actions: { forwardAsAttachmentTo: [{ emailAddress: { address: "forward@contoso.test" } }] },
  });
  await api(`/mailFolders/inbox/messageRules/${rule.id}`).patch({ isEnabled: false });
  saw.rules = (await api("/mailFolders/inbox/messageRules").get()).value.map((r) => [r.displayName, r.isEnabled]);
  await api(`/mailFolders/inbox/messageRules/${rule.id}`).delete();

  try {
    await api("/messages/none").get();
  } catch (error) {
    saw.error = [error.statusCode, error.code];
  }
  console.log(JSON.stringify(saw));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
